"""The figures of the load report are exact, and its verdict cannot be bought with silence."""

import pytest

from loadtests import report
from loadtests.measurements import MAX_INCIDENTS, Measurements
from loadtests.sae_client import Call, ReceivedKey
from loadtests.settings import Sae, SaePair

PAIR = SaePair(Sae("a", "kmstn1", "https://kmstn1:8443", "east"), Sae("b", "kmstn2", "https://kmstn2:8443", "west"))


def keys(*values: bytes) -> dict[str, ReceivedKey]:
    return {str(number): ReceivedKey(str(number), value) for number, value in enumerate(values)}


def tally(issued: dict[str, ReceivedKey], fetched: dict[str, ReceivedKey]) -> Measurements:
    measurements = Measurements()
    measurements.issue(issued)
    measurements.compare(PAIR, issued, fetched, "lost")
    return measurements


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (2, 51, 2), (3, 50, 2), (20, 95, 19), (100, 99, 99), (101, 99, 100)],
)
def test_percentile_is_the_nearest_rank_of_all_samples(count: int, percent: int, expected: float) -> None:
    assert report.percentile([float(value) for value in range(1, count + 1)], percent) == expected


def test_percentiles_do_not_depend_on_the_order_of_arrival_and_are_not_rounded_to_a_histogram() -> None:
    measurements = Measurements()
    for latency_ms in (1234.567, 3.25, 1111.111):
        measurements.observe(Call.ENC_KEYS, latency_ms, None)
    assert report.result(measurements, 2.0)["enc_keys"] == {
        "p50_ms": 1111.111,
        "p95_ms": 1234.567,
        "p99_ms": 1234.567,
        "per_s": 1.5,
    }


def test_failures_count_as_requests_but_not_into_latency_or_rate() -> None:
    measurements = Measurements()
    measurements.observe(Call.DEC_KEYS, 1.0, RuntimeError("503 busy"))
    measurements.observe(Call.DEC_KEYS, 8.0, None)
    document = report.result(measurements, 1.0)
    assert (document["requests"], document["failures"]) == (2, 1)
    assert document["dec_keys"]["p50_ms"] == 8.0
    assert document["dec_keys"]["per_s"] == 1.0
    assert document["failure_reasons"]["dec_keys"] == {"503 busy": 1}


def test_the_document_has_the_members_that_scripts_rely_on() -> None:
    document = report.result(Measurements(), 1.0)
    assert {"requests", "failures", "compared", "different", "missing", "enc_keys", "dec_keys"} <= set(document)
    assert document["enc_keys"] == {"p50_ms": None, "p95_ms": None, "p99_ms": None, "per_s": 0.0}


def test_equal_keys_pass() -> None:
    document = report.result(tally(keys(b"1", b"2"), keys(b"1", b"2")), 1.0)
    assert (document["compared"], document["different"], document["missing"]) == (2, 0, 0)
    assert report.passed(document)


def test_a_key_of_another_length_is_different() -> None:
    document = report.result(tally(keys(b"12"), keys(b"1")), 1.0)
    assert (document["compared"], document["different"]) == (1, 1)
    assert not report.passed(document)


def test_a_key_that_was_not_fetched_is_missing_and_not_compared() -> None:
    document = report.result(tally(keys(b"1", b"2"), keys(b"1")), 1.0)
    assert (document["compared"], document["missing"]) == (1, 1)
    assert document["incidents"] == [
        {"kind": "missing", "master_sae": "a", "slave_sae": "b", "key_id": "1", "reason": "lost"}
    ]
    assert not report.passed(document)


def test_a_user_that_dies_between_both_calls_leaves_its_key_missing() -> None:
    measurements = tally(keys(b"1"), keys(b"1"))
    measurements.issue(keys(b"2"))
    assert not report.passed(report.result(measurements, 1.0))


def test_a_run_that_compared_nothing_does_not_pass() -> None:
    assert not report.passed(report.result(Measurements(), 1.0))


def test_a_flood_of_missing_keys_is_counted_in_full_but_listed_in_part() -> None:
    issued = keys(*[b"1"] * (MAX_INCIDENTS + 5))
    document = report.result(tally(issued, {}), 1.0)
    assert document["missing"] == MAX_INCIDENTS + 5
    assert len(document["incidents"]) == MAX_INCIDENTS


def test_a_flood_of_distinct_reasons_is_summed_up() -> None:
    measurements = Measurements()
    for number in range(report.MAX_REASONS + 7):
        measurements.observe(Call.ENC_KEYS, 1.0, RuntimeError(f"reason {number}"))
    reasons = report.result(measurements, 1.0)["failure_reasons"]["enc_keys"]
    assert len(reasons) == report.MAX_REASONS + 1
    assert reasons["other reasons"] == 7


def test_the_table_names_a_lost_key_and_the_verdict() -> None:
    text = report.table(report.result(tally(keys(b"1", b"2"), keys(b"1")), 1.0))
    assert "missing: key 1 from a to b: lost" in text
    assert text.endswith("FAILED: 0 keys differ, 1 are missing")


def test_key_bytes_are_in_neither_form_of_the_report_when_a_key_differs() -> None:
    measurements = tally(keys(b"secret-of-a"), keys(b"secret-of-b"))
    document = report.result(measurements, 1.0)
    assert "secret" not in str(document) + report.table(document) + repr(keys(b"secret-of-a"))
