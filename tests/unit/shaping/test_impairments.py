"""What is asked of a link, and the verdict on what was measured."""

import json

import pytest
import tc_arguments

from topology.impairments import Impairment, expected_rtt_jitter_ms, expected_rtt_ms, verdict


@pytest.mark.parametrize("rate_mbps", [None, 100.0])
def test_what_the_plan_writes_the_router_reads(rate_mbps: float | None) -> None:
    asked = Impairment(12.0, 1.0, 0.5, rate_mbps)
    entry = json.loads(json.dumps(asked.router_entry("a-b", "10.88.128.0/29", "10.88.5.0/24")))
    assert tc_arguments.Impairment.from_settings(entry) == tc_arguments.Impairment(
        "a-b", "10.88.128.0/29", "10.88.5.0/24", 12.0, 1.0, 0.5, rate_mbps
    )


@pytest.mark.parametrize(
    ("delay_ms", "jitter_ms", "loss_percent", "rate_mbps"),
    [(-1, 0, 0, None), (5, 6, 0, None), (5, -1, 0, None), (5, 0, 101, None), (5, 0, -1, None), (5, 0, 0, 0)],
)
def test_what_no_link_can_do_is_refused(
    delay_ms: float, jitter_ms: float, loss_percent: float, rate_mbps: float | None
) -> None:
    with pytest.raises(ValueError, match="must"):
        Impairment(delay_ms, jitter_ms, loss_percent, rate_mbps)


def test_the_round_trip_adds_up_every_direction_passed() -> None:
    there, back = Impairment(12.0, 1.0), Impairment(8.0, 0.5)
    assert (expected_rtt_ms([there, back]), expected_rtt_jitter_ms([there, back])) == (20.0, 1.5)


@pytest.mark.parametrize(
    ("requested_ms", "measured_ms", "jitter_ms", "judged"),
    [
        (40.0, 40.6, 0.0, "ok"),
        (40.0, 46.0, 0.0, "ok"),
        (40.0, 46.1, 0.0, "off"),
        (40.0, 33.9, 0.0, "off"),
        (40.0, 47.9, 2.0, "ok"),
        (0.0, 1.9, 0.0, "ok"),
        (0.0, 2.1, 0.0, "off"),
        (40.0, 0.3, 0.0, "off"),
        (40.0, None, 0.0, "off"),
    ],
)
def test_an_unshaped_or_unanswering_link_is_off(
    requested_ms: float, measured_ms: float | None, jitter_ms: float, judged: str
) -> None:
    assert verdict(requested_ms, measured_ms, jitter_ms) == judged


def test_status_says_what_was_requested() -> None:
    assert str(Impairment(12.0, 1.0, 0.5, 100.0)) == "12 ms +- 1 ms, loss 0.5 %, 100 Mbit/s"
    assert Impairment().changes_nothing
    assert not Impairment(rate_mbps=10.0).changes_nothing
