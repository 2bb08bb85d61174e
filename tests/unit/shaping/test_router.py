"""The router's settings, the search for its interfaces, its rules and its state file."""

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from interfaces import Interfaces, RouterError, interface_in, parse_interfaces, wait_for_interfaces
from router import read_settings, write_state
from shaping import queue_rules

SETTINGS: dict[str, Any] = {
    "router": "router-euskadi",
    "gateways": [{"subnet": "10.88.5.0/24", "address": "10.88.5.1"}],
    "routes": [{"subnet": "10.88.1.0/24", "via": "10.88.128.2"}],
    "shaping": "required",
    "impairments": [
        {
            "link": "kmstn4-kmstn5",
            "out": "10.88.130.0/29",
            "src": None,
            "delay_ms": 12.0,
            "jitter_ms": 1.0,
            "loss_percent": 0.0,
            "rate_mbps": 100.0,
        }
    ],
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS | changes))
    return path


def test_settings_name_every_network_the_router_must_be_in(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path))
    assert settings.routes[0].via == IPv4Address("10.88.128.2")
    assert {str(subnet) for subnet in settings.subnets()} == {"10.88.5.0/24", "10.88.128.2/32", "10.88.130.0/29"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shaping": "maybe"}, "shaping is 'maybe'"),
        ({"gateways": [{"subnet": "10.88.5.0/24"}]}, "'address' is missing"),
        ({"routes": [{"subnet": "10.88.1.7/24", "via": "10.88.128.2"}]}, "has host bits set"),
        ({"impairments": [SETTINGS["impairments"][0] | {"delay_ms": "soon"}]}, "could not convert"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(RouterError, match=words):
        read_settings(written(tmp_path, **changes))


def test_missing_settings_are_refused_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"absent\.json"):
        read_settings(tmp_path / "absent.json")


LISTING = """[{},{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},
 {"ifname":"eth1","addr_info":[{"family":"inet","local":"10.88.5.2","prefixlen":24}]},
 {"ifname":"eth0","addr_info":[{"local":"10.88.128.1","prefixlen":29}]}]"""


def test_interfaces_are_found_by_address_whatever_their_order() -> None:
    interfaces = parse_interfaces(LISTING)
    assert interface_in(IPv4Network("10.88.128.0/29"), interfaces) == "eth0"
    assert interface_in(IPv4Network("10.88.5.0/24"), interfaces) == "eth1"
    assert interface_in(IPv4Network("10.88.128.2/32"), interfaces) == "eth0"
    assert interface_in(IPv4Network("10.88.6.0/24"), interfaces) is None


class LateNetwork:
    """A clock, and a network that is connected at `connected_s`."""

    def __init__(self, connected_s: float) -> None:
        self.now_s, self._connected_s = 0.0, connected_s

    def clock(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    def read(self) -> Interfaces:
        present = self.now_s >= self._connected_s
        return {"eth0": [IPv4Interface("10.1.0.2/24")]} if present else {"lo": [IPv4Interface("127.0.0.1/8")]}


def test_a_network_connected_after_the_start_is_waited_for() -> None:
    net, subnet = LateNetwork(4.0), IPv4Network("10.1.0.0/24")
    assert wait_for_interfaces([subnet], 10.0, net.read, net.clock, net.sleep) == {subnet: "eth0"}


def test_a_network_never_connected_is_named_with_what_there_is() -> None:
    net, subnet = LateNetwork(60.0), IPv4Network("10.1.0.0/24")
    with pytest.raises(RouterError, match=r"no interface in 10\.1\.0\.0/24 after 10 s .*lo 127\.0\.0\.1/8"):
        wait_for_interfaces([subnet], 10.0, net.read, net.clock, net.sleep)


def test_each_impairment_has_its_own_queue_and_a_dead_router_does_not_block() -> None:
    assert queue_rules([("eth1", "10.88.5.0/24"), ("eth1", None)]).splitlines() == [
        "*mangle",
        ":ROUTER-DELAY - [0:0]",
        "-A ROUTER-DELAY -o eth1 -s 10.88.5.0/24 -j NFQUEUE --queue-num 0 --queue-bypass",
        "-A ROUTER-DELAY -o eth1 -j NFQUEUE --queue-num 1 --queue-bypass",
        "COMMIT",
    ]


def test_the_state_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "router" / "state.json"
    write_state(path, {"ready": False})
    write_state(path, {"ready": True})
    assert json.loads(path.read_text()) == {"ready": True}
    assert list(path.parent.iterdir()) == [path]
