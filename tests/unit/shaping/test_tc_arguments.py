"""The `tc` commands, word for word, and what its refusals mean."""

from dataclasses import replace

import pytest
from tc_arguments import (
    Impairment,
    Refusal,
    interface_commands,
    limit_packets,
    netem_arguments,
    refusal_of,
    root_handle,
)

WAN = Impairment("kmstn2-kmstn3", "10.88.128.0/29", None, 12.0, 1.0, 0.5, 100.0)
VIGO = Impairment("kmstn1-kmstn2", "10.88.2.0/24", "10.88.1.0/24", 0.25, 0.0, 0.0, None)
PORT = replace(VIGO, src="10.88.3.0/24", delay_ms=30.0)


def test_delay_jitter_loss_and_rate_in_netem_words() -> None:
    assert " ".join(netem_arguments(WAN)) == "netem limit 2355 delay 12ms 1ms loss 0.5% rate 100000kbit"


def test_what_is_not_asked_is_not_said() -> None:
    assert " ".join(netem_arguments(VIGO)) == "netem limit 20886 delay 0.25ms"


def test_jitter_without_a_rate_would_reorder_packets() -> None:
    assert netem_arguments(replace(WAN, rate_mbps=None))[-2:] == ["rate", "10gbit"]


def test_a_fast_long_link_holds_more_than_the_thousand_packets_netem_would() -> None:
    long_link = replace(WAN, delay_ms=100.0, jitter_ms=0.0, rate_mbps=1000.0)
    assert limit_packets(long_link) * 600 >= 1e9 / 8 * 0.2


def test_a_slow_link_does_not_queue_for_seconds() -> None:
    slow = replace(WAN, rate_mbps=1.0)
    assert limit_packets(slow) == 100


def test_one_impairment_alone_is_changed_in_place_at_the_root() -> None:
    assert [" ".join(c) for c in interface_commands("eth1", [WAN], "8001:")] == [
        "tc qdisc replace dev eth1 root netem limit 2355 delay 12ms 1ms loss 0.5% rate 100000kbit"
    ]


def test_source_subnets_become_classes_and_the_rest_the_default_class() -> None:
    assert [" ".join(c) for c in interface_commands("eth0", [VIGO, PORT, WAN], None)] == [
        "tc qdisc replace dev eth0 root handle 1: htb default 3",
        "tc class replace dev eth0 parent 1: classid 1:1 htb rate 10gbit quantum 60000",
        "tc qdisc replace dev eth0 parent 1:1 netem limit 20886 delay 0.25ms",
        "tc filter replace dev eth0 parent 1: protocol ip prio 1 u32 match ip src 10.88.1.0/24 flowid 1:1",
        "tc class replace dev eth0 parent 1: classid 1:2 htb rate 10gbit quantum 60000",
        "tc qdisc replace dev eth0 parent 1:2 netem limit 27084 delay 30ms",
        "tc filter replace dev eth0 parent 1: protocol ip prio 1 u32 match ip src 10.88.3.0/24 flowid 1:2",
        "tc class replace dev eth0 parent 1: classid 1:3 htb rate 10gbit quantum 60000",
        "tc qdisc replace dev eth0 parent 1:3 netem limit 2355 delay 12ms 1ms loss 0.5% rate 100000kbit",
    ]


def test_without_a_default_class_other_traffic_passes_unshaped() -> None:
    assert interface_commands("eth0", [VIGO], None)[0][-2:] == ["default", "0"]


def test_an_htb_in_force_is_not_changed_but_replaced_under_another_handle() -> None:
    first = interface_commands("eth0", [VIGO, PORT], "8001:")[0]
    again = interface_commands("eth0", [VIGO, PORT], "1:")[0]
    assert (first[7], again[7]) == ("1:", "2:")


def test_no_command_deletes() -> None:
    words = {word for c in interface_commands("eth0", [VIGO, PORT, WAN], "1:") for word in c}
    assert not words & {"del", "delete", "add"}


@pytest.mark.parametrize(
    ("stderr", "refusal"),
    [
        ("Error: Specified qdisc kind is unknown.", Refusal.NO_NETEM),
        ("Error: Qdisc not found. To create specify NLM_F_CREATE flag.", Refusal.NO_NETEM),
        ("RTNETLINK answers: Operation not supported", Refusal.NO_NETEM),
        ("RTNETLINK answers: No such file or directory", Refusal.NO_NETEM),
        ("RTNETLINK answers: Operation not permitted", Refusal.NOT_PERMITTED),
        ('Cannot find device "eth7"', Refusal.NO_DEVICE),
        ("No distribution data for pareto (/usr/lib/tc//pareto.dist: No such file)", Refusal.NO_DISTRIBUTION),
        ("tc is not installed", Refusal.NO_TC),
        ('What is "limi"?', Refusal.OTHER),
    ],
)
def test_refusals_are_told_apart(stderr: str, refusal: Refusal) -> None:
    assert refusal_of(stderr) is refusal


@pytest.mark.parametrize(
    ("listing", "handle"),
    [
        ("qdisc htb 2: root refcnt 2 r2q 10 default 0x3\nqdisc netem 8003: parent 2:1 limit 100", "2:"),
        ("qdisc noqueue 0: root refcnt 2", None),
        ("qdisc mq 0: root\nqdisc pfifo_fast 0: parent :1 bands 3", None),
        ("", None),
    ],
)
def test_the_root_in_force_is_found(listing: str, handle: str | None) -> None:
    assert root_handle(listing) == handle
