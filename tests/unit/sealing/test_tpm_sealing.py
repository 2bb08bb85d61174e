"""The TPM releases the data key to the software and TPM it was sealed to, and to nothing else (in the node image)."""

import asyncio
import shutil
from pathlib import Path

import pytest

from node.errors import KmstnError, StoreMissingError
from node.sealing.choice import BLOB_NAME, Sealing, open_sealing
from node.sealing.errors import (
    MeasuredStateChangedError,
    RollbackCounterError,
    SealedKeyDamagedError,
    SealedKeyMissingError,
    StoreRolledBackError,
    TpmReplacedError,
    TpmUnavailableError,
)
from node.sealing.measure import measured_state
from node.sealing.rollback_counter import counter_secret
from node.sealing.swtpm import running_swtpm
from node.settings import NodeSettings
from node.storage.database import DATABASE_NAME, Database
from node.storage.value_cipher import ValueCipher
from tests.unit.storage.small_stores import LINK, link_key, stocked

pytestmark = pytest.mark.node_image


def settings(state_dir: Path, node: str = "kmstn1") -> NodeSettings:
    return NodeSettings(node=node, domain="east", site="here", state_dir=state_dir)


def release(state_dir: Path, node: str = "kmstn1") -> bytes:
    with open_sealing(settings(state_dir, node)) as sealing:
        assert "tpm" in sealing.description
        return sealing.data_key.reveal()


def store_of(state_dir: Path, sealing: Sealing) -> Database:
    return Database(state_dir / DATABASE_NAME, ValueCipher(sealing.data_key.reveal()), sealing.guard)


def start_and_stop(state_dir: Path, *key_ids: str) -> None:
    """Do what a node does with its store from start to clean stop, and put link keys into it."""

    async def work(store: Database) -> None:
        await store.transact(lambda ledger: stocked(ledger, key_ids))

    with open_sealing(settings(state_dir)) as sealing:
        store = store_of(state_dir, sealing)
        store.open()
        asyncio.run(work(store))
        store.close()


def refused(state_dir: Path, kind: type[KmstnError], words: str) -> None:
    """Expect the start to be refused for that reason, twice: a refusal changes nothing."""
    for _ in range(2):
        with pytest.raises(kind, match=words) as raised:
            start_and_stop(state_dir)
        assert type(raised.value) is kind


def test_data_key_is_released_again_after_a_restart(tmp_path: Path) -> None:
    first = release(tmp_path)
    assert len(first) == 32
    assert release(tmp_path) == first


def test_no_byte_of_the_data_key_is_on_disk_in_clear(tmp_path: Path) -> None:
    data_key = release(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(part in content for part in (data_key[:16], data_key[16:], data_key.hex().encode())), path


def test_other_identity_does_not_get_the_data_key(tmp_path: Path) -> None:
    release(tmp_path)
    with pytest.raises(MeasuredStateChangedError, match="identity is east/kmstn2, sealed to east/kmstn1"):
        release(tmp_path, "kmstn2")
    assert release(tmp_path), "the right identity still gets it"


def test_other_software_does_not_get_the_data_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(tmp_path)
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "app.py").write_text("# another image")
    with monkeypatch.context() as patched:
        patched.setattr("node.sealing.choice.measured_state", lambda told: measured_state(told, changed))
        with pytest.raises(MeasuredStateChangedError, match="software is another"):
            release(tmp_path)
    assert release(tmp_path), "the earlier image still gets it"


def test_data_key_is_released_once_per_start(tmp_path: Path) -> None:
    from node.sealing.tpm_commands import Tpm
    from node.sealing.tpm_sealer import TpmSealer

    release(tmp_path)
    with (
        running_swtpm(tmp_path / "tpm", may_make=False) as swtpm,
        swtpm.conversation() as tcti,
        Tpm(tcti) as tpm,
    ):
        sealer = TpmSealer(tpm, measured_state(settings(tmp_path)))
        sealer.unseal(tmp_path / BLOB_NAME)
        with pytest.raises(MeasuredStateChangedError, match="released already"):
            sealer.unseal(tmp_path / BLOB_NAME)


def test_tpm_state_that_is_gone_is_told_and_no_new_tpm_made(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    (tmp_path / "tpm").rename(tmp_path / "elsewhere")
    refused(tmp_path, TpmReplacedError, "wiped or replaced")
    assert not (tmp_path / "tpm").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "tpm")
    start_and_stop(tmp_path)


def test_tpm_wiped_by_command_is_told(tmp_path: Path) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    start_and_stop(tmp_path, "k1")
    with running_swtpm(tmp_path / "tpm", may_make=False) as swtpm:
        esys = ESAPI(swtpm.tcti)
        esys.clear(ESYS_TR.LOCKOUT)
        esys.close()
    refused(tmp_path, TpmReplacedError, "before it was wiped")


def test_another_tpm_in_its_place_is_told(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    start_and_stop(mine, "k1")
    start_and_stop(other)
    (mine / "tpm").rename(tmp_path / "elsewhere")
    shutil.copytree(other / "tpm", mine / "tpm")
    refused(mine, TpmReplacedError, "by another TPM")
    shutil.rmtree(mine / "tpm")
    (tmp_path / "elsewhere").rename(mine / "tpm")
    start_and_stop(mine)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"not json", b"\xff" * 400, "cut", "bit"])
def test_damaged_blob_is_told_and_a_copy_recovers_it(tmp_path: Path, content: bytes | str) -> None:
    start_and_stop(tmp_path, "k1")
    blob = tmp_path / BLOB_NAME
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 1
    blob.write_bytes({"cut": whole[:-40], "bit": bytes(flipped)}[content] if isinstance(content, str) else content)
    refused(tmp_path, SealedKeyDamagedError, "damaged")
    blob.write_bytes(whole)
    start_and_stop(tmp_path)


def test_tpm_state_that_is_damaged_is_a_tpm_that_does_not_start(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    state = tmp_path / "tpm" / "tpm2-00.permall"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, TpmUnavailableError, "TPM does not run")
    state.write_bytes(whole)
    start_and_stop(tmp_path)


def test_machine_without_swtpm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_and_stop(tmp_path, "k1")
    with monkeypatch.context() as patched:
        patched.setenv("PATH", "/nowhere")
        refused(tmp_path, TpmUnavailableError, "not installed")
    start_and_stop(tmp_path)


def test_store_without_its_sealed_key_is_not_started_over(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    (tmp_path / BLOB_NAME).rename(tmp_path / "elsewhere")
    store = (tmp_path / DATABASE_NAME).read_bytes()
    refused(tmp_path, SealedKeyMissingError, "holds a store")
    assert (tmp_path / DATABASE_NAME).read_bytes() == store
    (tmp_path / DATABASE_NAME).rename(tmp_path / "store elsewhere")
    refused(tmp_path, SealedKeyMissingError, "its TPM has guarded one")
    (tmp_path / "store elsewhere").rename(tmp_path / DATABASE_NAME)
    (tmp_path / "elsewhere").rename(tmp_path / BLOB_NAME)
    start_and_stop(tmp_path)


@pytest.mark.parametrize("left", [None, b""])
def test_sealed_key_without_its_store_is_not_started_over(tmp_path: Path, left: bytes | None) -> None:
    start_and_stop(tmp_path, "k1")
    store = tmp_path / DATABASE_NAME
    store.rename(tmp_path / "elsewhere")
    if left is not None:
        store.write_bytes(left)
    refused(tmp_path, StoreMissingError, "missing or empty")
    (tmp_path / "elsewhere").rename(store)
    start_and_stop(tmp_path)


def test_older_copy_of_the_store_is_refused_and_the_newest_taken(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    store = tmp_path / DATABASE_NAME
    older = store.read_bytes()
    start_and_stop(tmp_path, "k2")
    newest = store.read_bytes()
    store.write_bytes(older)
    refused(tmp_path, StoreRolledBackError, "an older copy was put in its place")
    store.write_bytes(newest)
    start_and_stop(tmp_path)


def test_copy_taken_while_the_node_ran_is_refused_after_its_stop(tmp_path: Path) -> None:
    async def work(store: Database) -> None:
        await store.transact(lambda ledger: stocked(ledger, ["k1"]))
        for name in ("", "-wal"):
            shutil.copy(tmp_path / f"{DATABASE_NAME}{name}", tmp_path / f"copy{name}")
        await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))

    with open_sealing(settings(tmp_path)) as sealing:
        store = store_of(tmp_path, sealing)
        store.open()
        asyncio.run(work(store))
        store.close()
    for name in ("", "-wal"):
        shutil.move(tmp_path / f"copy{name}", tmp_path / f"{DATABASE_NAME}{name}")
    refused(tmp_path, StoreRolledBackError, "older copy")


def test_node_that_crashed_between_store_and_counter_starts_again(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    class CrashesAtTheStep:
        """Lets the check at the opening pass, and crashes before the TPM counts."""

        def __init__(self, sealing: Sealing) -> None:
            assert sealing.guard is not None
            self._guard, self._calls = sealing.guard, 0

        def settle(self, epoch: int) -> None:
            self._calls += 1
            if self._calls == 2:
                raise Crash
            self._guard.settle(epoch)

    start_and_stop(tmp_path, "k1")
    for _ in range(3):
        with open_sealing(settings(tmp_path)) as sealing:
            cipher = ValueCipher(sealing.data_key.reveal())
            with pytest.raises(Crash):
                Database(tmp_path / DATABASE_NAME, cipher, CrashesAtTheStep(sealing)).open()
    start_and_stop(tmp_path, "k2")


def test_older_state_of_the_tpm_is_refused(tmp_path: Path) -> None:
    start_and_stop(tmp_path, "k1")
    shutil.copytree(tmp_path / "tpm", tmp_path / "older")
    start_and_stop(tmp_path, "k2")
    (tmp_path / "tpm").rename(tmp_path / "newest")
    (tmp_path / "older").rename(tmp_path / "tpm")
    refused(tmp_path, RollbackCounterError, "older state of the TPM")
    shutil.rmtree(tmp_path / "tpm")
    (tmp_path / "newest").rename(tmp_path / "tpm")
    start_and_stop(tmp_path)


@pytest.mark.parametrize(("again", "words"), [(False, "is gone"), (True, "not the one that this node made")])
def test_counter_removed_or_made_anew_by_somebody_is_told(tmp_path: Path, again: bool, words: str) -> None:
    from node.sealing.tpm_commands import COUNTER_INDEX, Tpm

    start_and_stop(tmp_path, "k1")
    with (
        running_swtpm(tmp_path / "tpm", may_make=False) as swtpm,
        swtpm.conversation() as tcti,
        Tpm(tcti) as tpm,
    ):
        if again:
            tpm.make_counter(bytes(32))
        else:
            tpm._esys.nv_undefine_space(tpm._esys.tr_from_tpmpublic(COUNTER_INDEX))
    refused(tmp_path, RollbackCounterError, words)


def test_counter_made_anew_never_counts_what_was_counted(tmp_path: Path) -> None:
    """So removing it does not make an older copy the newest, even for somebody who had its secret."""
    from node.sealing.tpm_commands import Tpm

    start_and_stop(tmp_path, "k1")
    older = (tmp_path / DATABASE_NAME).read_bytes()
    start_and_stop(tmp_path)
    with open_sealing(settings(tmp_path)) as sealing:
        secret = counter_secret(sealing.data_key)
    with (
        running_swtpm(tmp_path / "tpm", may_make=False) as swtpm,
        swtpm.conversation() as tcti,
        Tpm(tcti) as tpm,
    ):
        before = tpm.counted(secret)
        tpm.make_counter(secret)
        assert tpm.counted(secret) > before
    (tmp_path / DATABASE_NAME).write_bytes(older)
    refused(tmp_path, StoreRolledBackError, "older copy")


@pytest.mark.parametrize(
    "step", ["create_store", "counter_secret", "TpmSealer.seal", "_finish"], ids=lambda step: step.rpartition(".")[2]
)
def test_installation_that_a_crash_cut_short_is_begun_again_or_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    places = {
        "create_store": "node.sealing.choice.create_store",
        "counter_secret": "node.sealing.choice.counter_secret",
        "TpmSealer.seal": "node.sealing.tpm_sealer.TpmSealer.seal",
        "_finish": "node.sealing.installation._finish",
    }

    def crash(*_arguments: object) -> None:
        raise RuntimeError("crash")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(places[step], crash)
            with pytest.raises(RuntimeError, match="crash"):
                release(tmp_path)
    start_and_stop(tmp_path, "k1")
    with open_sealing(settings(tmp_path)) as sealing:
        store = store_of(tmp_path, sealing)
        store.open()
        assert asyncio.run(store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))) == (link_key("k1"),)
        store.close()
