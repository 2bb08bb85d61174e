"""The load test as a stranger runs it, in a process of its own, against two KMEs that are honest or cheat."""

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.loadtests.fake_kme_pair import SAES, FakeKmePair, Fault, running

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60


def load_command(settings: Path, identity: Path, *options: str) -> list[str]:
    where = ["--settings", str(settings), "--identity", str(identity)]
    return [
        sys.executable,
        "-m",
        "loadtests",
        "--users",
        "4",
        "--duration-s",
        "1.5",
        "--pace-s",
        "0.2",
        *where,
        *options,
    ]


def run_load(
    folder: Path, fault: Fault, *options: str, mixed_up_domains: bool = False
) -> tuple[FakeKmePair, int, dict[str, Any], str]:
    """Return the pair, the exit code, the JSON document and all output."""
    with running(folder, fault, mixed_up_domains=mixed_up_domains) as (pair, settings, identity):
        command = load_command(settings, identity, "--json", *options)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout.count("\n") == 1, done.stderr
    return pair, done.returncode, json.loads(done.stdout), done.stdout + done.stderr


def test_identical_keys_are_compared_and_pass(tmp_path: Path) -> None:
    pair, code, document, output = run_load(tmp_path, Fault.NONE, "--number", "3", "--size", "128")
    assert code == 0, output
    assert document["compared"] == len(pair.given) > 0
    assert (document["failures"], document["different"], document["missing"]) == (0, 0, 0)
    assert document["requests"] == 2 * pair.enc_keys_calls
    assert 0 < document["enc_keys"]["p50_ms"] <= document["enc_keys"]["p95_ms"] <= document["enc_keys"]["p99_ms"]
    assert document["dec_keys"]["per_s"] > 0


def test_a_user_keeps_one_connection_per_sae(tmp_path: Path) -> None:
    pair, _, document, _ = run_load(tmp_path, Fault.NONE)
    assert 2 <= len(pair.connections) <= 8
    assert document["requests"] > len(pair.connections)


def test_a_flipped_bit_is_counted_as_different_and_fails_the_run(tmp_path: Path) -> None:
    _, code, document, output = run_load(tmp_path, Fault.CORRUPTS_A_KEY, "--number", "2")
    assert code == 1, output
    assert (document["different"], document["missing"], document["failures"]) == (1, 0, 0)
    assert [incident["kind"] for incident in document["incidents"]] == ["different"]


def test_a_lost_key_is_counted_as_missing_and_fails_the_run(tmp_path: Path) -> None:
    _, code, document, output = run_load(tmp_path, Fault.LOSES_A_KEY)
    assert code == 1, output
    assert (document["different"], document["missing"], document["failures"]) == (0, 1, 1)
    reason = "400 one or more keys specified are not found on KME"
    assert document["failure_reasons"] == {"enc_keys": {}, "dec_keys": {reason: 1}}
    assert document["incidents"][0]["reason"] == reason


def test_an_answer_that_lacks_one_of_the_ids_leaves_that_key_missing(tmp_path: Path) -> None:
    pair, code, document, output = run_load(tmp_path, Fault.LEAVES_A_KEY_OUT, "--number", "2")
    assert code == 1, output
    assert (document["different"], document["missing"]) == (0, 1)
    assert document["compared"] == len(pair.given) - 1


def test_insufficient_key_is_a_failure_with_its_message_and_nothing_is_missing(tmp_path: Path) -> None:
    pair, code, document, output = run_load(tmp_path, Fault.HAS_NO_KEYS)
    assert code == 1, output
    assert document["failure_reasons"]["enc_keys"] == {"503 not enough key material": pair.enc_keys_calls}
    assert (document["compared"], document["missing"]) == (0, 0)
    assert document["enc_keys"]["p50_ms"] is None


def test_a_node_with_a_certificate_of_another_domain_gets_no_request(tmp_path: Path) -> None:
    pair, code, document, output = run_load(tmp_path, Fault.NONE, mixed_up_domains=True)
    assert code == 1, output
    assert pair.enc_keys_calls == 0
    assert document["compared"] == 0
    assert all("certificate refused" in reason for reason in document["failure_reasons"]["enc_keys"])
    assert document["failures"] > 0


@pytest.mark.parametrize("fault", [Fault.CORRUPTS_A_KEY, Fault.ECHOES_KEYS_IN_NONSENSE])
def test_key_bytes_never_reach_the_output(tmp_path: Path, fault: Fault) -> None:
    pair, code, _, output = run_load(tmp_path, fault)
    assert code == 1
    assert pair.given
    values = [base64.b64decode(key) for key in pair.given]
    spellings = [*pair.given, *(value.hex() for value in values), *(repr(value)[2:-1] for value in values)]
    assert not [spelling for spelling in spellings if spelling in output]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_early_and_the_report_still_comes(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, Fault.NONE) as (pair, settings, identity):
        command = load_command(settings, identity, "--json", "--duration-s", "3600")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            fetched = pair.fetched.wait(TIMEOUT_S)
            process.send_signal(number)
            output, _ = process.communicate(timeout=TIMEOUT_S)
    assert fetched
    assert process.returncode == 0
    document = json.loads(output)
    assert document["compared"] == len(pair.given) > 0
    assert document["missing"] == 0


def test_plain_locust_runs_the_same_users_and_fails_on_a_flipped_bit(tmp_path: Path) -> None:
    with running(tmp_path, Fault.CORRUPTS_A_KEY) as (_, settings, identity):
        where = ["--settings", str(settings), "--identity", str(identity), "--pace-s", "0.2"]
        users = ["--headless", "--users", "2", "--run-time", "2s", "--only-summary"]
        command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", *users, *where]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert "FAILED: 1 keys differ, 0 are missing" in done.stdout, done.stderr
    assert done.returncode == 1


def test_a_missing_identity_is_named_before_any_user_starts(tmp_path: Path) -> None:
    with running(tmp_path, Fault.NONE) as (pair, settings, identity):
        sae = next(iter(SAES))
        (identity / f"{sae}.key").unlink()
        command = load_command(settings, identity)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 2
    assert f"{sae}.key" in done.stderr
    assert pair.enc_keys_calls == 0
