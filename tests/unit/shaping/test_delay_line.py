"""When packets are let go, on a clock that the test moves."""

import random

import pytest
from delay_line import DelayLine
from tc_arguments import Impairment


def line(
    delay_ms: float = 0.0,
    jitter_ms: float = 0.0,
    loss_percent: float = 0.0,
    rate_mbps: float | None = None,
    seed: int = 1,
) -> DelayLine:
    impairment = Impairment("link", "10.0.0.0/24", None, delay_ms, jitter_ms, loss_percent, rate_mbps)
    return DelayLine(impairment, random.Random(seed).random)


def test_a_packet_is_held_for_the_delay_and_not_longer() -> None:
    held = line(delay_ms=20)
    assert held.admit(1, 100, 5.0)
    assert held.next_due_s() == pytest.approx(5.020)
    assert held.take_due(5.0199) is None
    assert held.take_due(5.0201) == 1
    assert held.next_due_s() is None


def test_one_batch_lets_go_all_that_are_due_and_none_that_are_not() -> None:
    held = line(delay_ms=10)
    for packet_id in range(1, 6):
        held.admit(packet_id, 100, packet_id * 0.001)
    assert held.take_due(0.0135) == 3
    assert held.take_due(0.0135) is None
    assert held.take_due(1.0) == 5


def test_jitter_never_lets_a_packet_overtake() -> None:
    held = line(delay_ms=50, jitter_ms=50)
    for packet_id in range(500):
        held.admit(packet_id, 100, packet_id * 0.0001)
    released, dues = [], []
    while (due := held.next_due_s()) is not None:
        dues.append(due)
        released.append(held.take_due(due))
    assert dues == sorted(dues)
    assert released == sorted(released, key=lambda packet_id: packet_id or 0)


def test_jitter_spreads_evenly_about_the_delay() -> None:
    held, delays = line(delay_ms=50, jitter_ms=5), []
    for second in range(2000):
        held.admit(second, 100, float(second))
        due = held.next_due_s()
        assert due is not None
        delays.append(due - second)
        held.take_due(due)
    assert min(delays) >= 0.045 - 1e-9
    assert max(delays) <= 0.055 + 1e-9
    assert sum(delays) / len(delays) == pytest.approx(0.050, abs=0.0005)


def test_a_rate_sends_one_packet_after_the_other() -> None:
    held = line(delay_ms=10, rate_mbps=8.0)
    held.admit(1, 1000, 0.0)
    held.admit(2, 1000, 0.0)
    assert held.take_due(0.0109) is None
    assert held.take_due(0.0111) == 1
    assert held.take_due(0.0119) is None
    assert held.take_due(0.0121) == 2


def test_an_idle_line_saves_up_no_rate() -> None:
    held = line(rate_mbps=8.0)
    held.admit(1, 1000, 0.0)
    held.admit(2, 1000, 100.0)
    assert held.take_due(50.0) == 1
    assert held.next_due_s() == pytest.approx(100.001)


def test_a_rates_queue_drops_what_would_wait_too_long_and_recovers() -> None:
    held = line(rate_mbps=8.0)
    taken = [held.admit(packet_id, 1000, 0.0) for packet_id in range(200)]
    assert sum(taken) in (100, 101)  # 100 ms at one packet per millisecond
    assert taken == sorted(taken, reverse=True)
    assert held.admit(200, 1000, 0.05)


def test_loss_drops_the_asked_share_and_holds_the_rest() -> None:
    held = line(loss_percent=10.0)
    assert sum(held.admit(packet_id, 100, 0.0) for packet_id in range(20_000)) == pytest.approx(18_000, rel=0.01)


def test_a_link_that_loses_everything_holds_nothing() -> None:
    held = line(delay_ms=5, loss_percent=100.0)
    assert not any(held.admit(packet_id, 100, 0.0) for packet_id in range(100))
    assert held.next_due_s() is None
