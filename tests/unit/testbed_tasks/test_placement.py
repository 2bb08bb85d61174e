"""A testbed finds free addresses and ports by itself; what a description fixes and somebody else has is refused."""

import socket
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from topology import placement
from topology.addresses import candidate_subnets
from topology.engine import FoundNetwork
from topology.errors import SubnetClash, TestbedError
from topology.load import load_description
from topology.state import StateFolder
from topology.testbed import TESTBEDS

DESCRIPTION = load_description(TESTBEDS / "two-nodes.yaml")


class Networks:
    """An engine that has networks and nothing else."""

    def __init__(self, *subnets: IPv4Network) -> None:
        self._subnets = subnets

    def networks(self, testbed: str | None = None) -> list[FoundNetwork]:
        """Every network belongs to somebody else."""
        return [FoundNetwork("the-neighbours", {}, "1", (subnet,)) for subnet in self._subnets]


@pytest.fixture(autouse=True)
def _no_host_routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(placement, "ROUTES", tmp_path / "none")


def choose(engine: Any, **changes: Any) -> IPv4Network:
    return placement.choose_subnet(engine, DESCRIPTION.model_copy(update=changes), "some-name")


def test_derived_subnet_moves_on_when_somebody_has_it() -> None:
    first, second, *_ = candidate_subnets("some-name")
    assert choose(Networks()) == first
    assert choose(Networks(next(iter(first.subnets(new_prefix=24))))) == second


def test_fixed_subnet_that_is_taken_names_its_owner() -> None:
    wanted = IPv4Network("10.44.0.0/16")
    with pytest.raises(SubnetClash, match="the-neighbours"):
        choose(Networks(IPv4Network("10.44.3.0/24")), subnet=wanted)
    assert choose(Networks(), subnet=wanted) == wanted


def test_route_of_the_host_is_kept_clear_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second, *_ = candidate_subnets("some-name")
    little_endian = first.network_address.packed[::-1].hex().upper()
    routes = tmp_path / "route"
    routes.write_text(f"head\neth9 {little_endian} 00000000 0001 0 0 0 0000FFFF 0 0 0\n")
    monkeypatch.setattr(placement, "ROUTES", routes)
    assert choose(Networks()) == second


def test_fixed_port_in_use_is_refused_saying_how_to_find_the_user() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        description = DESCRIPTION.model_copy(update={"ports": {"kmstn1": port}})
        with pytest.raises(TestbedError, match=f"{port}.*kmstn1.*ss -ltnp"):
            placement.choose_ports(description, "some-name", remote=False)


def test_derived_ports_leave_out_those_in_use() -> None:
    first = placement.choose_ports(DESCRIPTION, "some-name", remote=False)
    assert set(first) == {"kmstn1", "kmstn2", "operator"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["kmstn2"]))
        taken.listen()
        assert not set(placement.choose_ports(DESCRIPTION, "some-name", remote=False).values()) & {first["kmstn2"]}


@pytest.mark.parametrize("name", ["..", ".", "/tmp", "a/b", ""])
def test_state_of_a_testbed_never_lies_outside_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="no testbed named"):
        StateFolder(name, tmp_path)
