"""A TPM in lockout, one that hangs, one that dies: the node says which, and recovers (in the node image)."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from node.sealing import lockout as lockout_tool
from node.sealing.choice import open_sealing
from node.sealing.epochs import keep_epochs
from node.sealing.errors import TpmLockoutError, TpmUnavailableError
from node.sealing.swtpm import PORT, SoftwareTpm, running_swtpm
from node.storage.database import Database
from tests.unit.sealing.test_tpm_sealing import release, settings, start_and_stop, store_of
from tests.unit.storage.small_stores import LINK, link_key, stocked

pytestmark = pytest.mark.node_image

RECOVERY_S = 3


@contextmanager
def raw_tpm(state_dir: Path) -> Iterator[Any]:
    from tpm2_pytss import ESAPI

    with running_swtpm(state_dir / "tpm", may_make=False) as swtpm:
        esys = ESAPI(swtpm.tcti)
        yield esys
        esys.close()


def lock_out(state_dir: Path) -> None:
    """Guess at an object that counts guesses until the TPM locks itself; it forgets a guess in RECOVERY_S."""
    from tpm2_pytss import TSS2_Exception
    from tpm2_pytss.constants import TPM2_ALG, TPMA_NV
    from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

    with raw_tpm(state_dir) as esys:
        esys.dictionary_attack_parameters(2, RECOVERY_S, RECOVERY_S)
        public = TPMS_NV_PUBLIC(
            nvIndex=0x01800012, nameAlg=TPM2_ALG.SHA256, attributes=TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE, dataSize=8
        )
        index = esys.nv_define_space(b"secret", TPM2B_NV_PUBLIC(public))
        esys.tr_set_auth(index, b"guess")
        for _ in range(4):
            with pytest.raises(TSS2_Exception):
                esys.nv_write(index, b"12345678", auth_handle=index)


def settings_file(state_dir: Path) -> Path:
    path = state_dir / "settings.json"
    path.write_text(json.dumps({"node": "kmstn1", "domain": "east", "site": "here", "state_dir": str(state_dir)}))
    return path


def test_lockout_is_told_and_ends_while_the_tpm_is_kept_running(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    lock_out(tmp_path)
    with pytest.raises(TpmLockoutError, match=f"forgets one every {RECOVERY_S} s that it runs"):
        release(tmp_path)
    begin = time.monotonic()
    assert lockout_tool.main(settings_file(tmp_path), 0.2) == 0
    assert time.monotonic() - begin < 4 * RECOVERY_S
    start_and_stop(tmp_path)


def test_lockout_does_not_end_while_the_tpm_is_off(tmp_path: Path) -> None:
    """So waiting is not enough, and the recovery has a command."""
    start_and_stop(tmp_path, "k1")
    lock_out(tmp_path)
    time.sleep(RECOVERY_S + 1)
    with pytest.raises(TpmLockoutError):
        release(tmp_path)


def test_lockout_tool_says_that_there_is_no_tpm(tmp_path: Path) -> None:
    assert lockout_tool.main(settings_file(tmp_path)) == 1
    assert not (tmp_path / "tpm").exists()


def test_node_that_is_killed_often_does_not_lock_its_own_tpm(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    for _ in range(8):
        with open_sealing(settings(tmp_path)) as sealing:
            store_of(tmp_path, sealing).open()
            os.kill(swtpm_of(sealing.guard)._process.pid, signal.SIGKILL)
    assert lockout_tool.main(settings_file(tmp_path), 0.2) == 0
    with raw_tpm(tmp_path) as esys:
        from tpm2_pytss.constants import TPM2_CAP, TPM2_PT

        _, found = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 1)
        assert found.data.tpmProperties[0].value == 0
    start_and_stop(tmp_path)


def swtpm_of(guard: Any) -> SoftwareTpm:
    swtpm = guard._make_durable.__self__
    assert isinstance(swtpm, SoftwareTpm)
    return swtpm


def test_port_in_use_is_told(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    with socket.create_server(("127.0.0.1", PORT)), pytest.raises(TpmUnavailableError, match="TPM does not run"):
        release(tmp_path)
    start_and_stop(tmp_path)


def test_tpm_that_hangs_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_and_stop(tmp_path, "k1")
    conversation = SoftwareTpm.conversation

    def with_a_stopped_tpm(swtpm: SoftwareTpm) -> Any:
        os.kill(swtpm._process.pid, signal.SIGSTOP)
        return conversation(swtpm, 1.0)

    begin = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(SoftwareTpm, "conversation", with_a_stopped_tpm)
        with pytest.raises(TpmUnavailableError, match="did not answer within 1 s"):
            release(tmp_path)
    assert time.monotonic() - begin < 10
    start_and_stop(tmp_path)


def test_tpm_that_dies_while_the_node_runs_leaves_it_serving_and_unhealthy(tmp_path: Path) -> None:
    health = SimpleNamespace(tpm_failure=None)

    async def run(store: Database, swtpm: SoftwareTpm) -> None:
        keeping = asyncio.create_task(keep_epochs(store, 0.05, asyncio.sleep, health))
        await store.transact(lambda ledger: stocked(ledger, ["k1", "k2"]))
        await asyncio.sleep(0.5)
        assert health.tpm_failure is None
        swtpm._process.kill()
        async with asyncio.timeout(10):
            while health.tpm_failure is None:
                await asyncio.sleep(0.02)
        assert "rollback protection stands still" in str(health.tpm_failure)
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)
        assert store.failure is None
        keeping.cancel()
        store.close()

    with open_sealing(settings(tmp_path)) as sealing:
        store = store_of(tmp_path, sealing)
        store.open()
        asyncio.run(run(store, swtpm_of(sealing.guard)))
    with open_sealing(settings(tmp_path)) as sealing:
        store = store_of(tmp_path, sealing)
        store.open()
        assert asyncio.run(store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))) == (link_key("k2"),)
        store.close()


def test_counting_is_bounded_by_the_interval(tmp_path: Path) -> None:
    """Two at each start and stop, one in each interval; none for a transaction."""
    from node.sealing.rollback_counter import counter_secret

    async def run(store: Database) -> None:
        for number in range(200):
            await store.transact(lambda ledger, number=number: stocked(ledger, [f"k{number}"]))  # type: ignore[misc]

    with open_sealing(settings(tmp_path)) as sealing:
        guard: Any = sealing.guard
        secret = counter_secret(sealing.data_key)

        def counted() -> int:
            with guard._reach() as tpm:
                return int(tpm.counted(secret))

        begin = counted()
        store = store_of(tmp_path, sealing)
        store.open()
        asyncio.run(run(store))
        store.close()
        assert counted() - begin == 2
