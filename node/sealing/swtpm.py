"""A software TPM beside the node: made when the node is, started and ended with it, its state in the volume."""

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.sealing.errors import TpmReplacedError, TpmUnavailableError
from node.storage.store_file import sync_folder

log = logging.getLogger("kmstn.sealing")

PORT = 2321  # The control channel is always the next port.
START_TIMEOUT_S = 10.0
SETUP_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 20.0
_STATE = "tpm2-00.permall"
_LOG = "swtpm.log"
_PR_SET_PDEATHSIG = 1


class SoftwareTpm:
    """A running swtpm."""

    tcti = f"swtpm:host=127.0.0.1,port={PORT}"

    def __init__(self, process: "subprocess.Popen[bytes]", state_dir: Path) -> None:
        self._process = process
        self._state_dir = state_dir

    @contextmanager
    def conversation(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[str]:
        """Yield the TCTI string. The library waits for ever: a TPM that takes longer is ended, which it notices."""
        watch = threading.Timer(timeout_s, self._process.kill)
        watch.start()
        try:
            yield self.tcti
        except TpmUnavailableError as error:
            if not watch.is_alive():
                message = f"the TPM did not answer within {timeout_s:g} s and was ended. Start the node again"
                raise TpmUnavailableError(message) from error
            if self._has_ended():
                raise TpmUnavailableError(_last_words(self._state_dir)) from error
            raise
        finally:
            watch.cancel()

    def _has_ended(self) -> bool:
        # The socket closes a moment before the process is gone.
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return False
        return True

    def make_durable(self) -> None:
        """Sync what the TPM keeps: swtpm leaves that to the operating system. Raises TpmUnavailableError."""
        try:
            with (self._state_dir / _STATE).open("rb") as state:
                os.fsync(state.fileno())
            sync_folder(self._state_dir)
        except OSError as failure:
            raise TpmUnavailableError(f"cannot sync the TPM's state in {self._state_dir}: {failure}") from failure


@contextmanager
def running_swtpm(state_dir: Path, *, may_make: bool) -> Iterator[SoftwareTpm]:
    """Run the TPM, making it if there is none; raises TpmUnavailableError quoting its log, TpmReplacedError."""
    if shutil.which("swtpm") is None:
        raise TpmUnavailableError("swtpm is not installed: use the node image, or sealing: unsafe-plaintext")
    if not (state_dir / _STATE).exists():
        if not may_make:
            raise TpmReplacedError(
                f"{state_dir} holds no TPM state, so the TPM that sealed the data key was wiped or replaced: put that "
                "state back, or remove the volume to start over without the stored keys"
            )
        _set_up(state_dir)
    process = subprocess.Popen(_command(state_dir), preexec_fn=_die_with_parent)
    try:
        _wait_until_listening(process, state_dir)
        yield SoftwareTpm(process, state_dir)
    finally:
        _end(process)


def _set_up(state_dir: Path) -> None:
    """Make the TPM's state. Without endorsement key and certificate: nothing here attests, and they take a second."""
    begin = time.monotonic()
    state_dir.mkdir(parents=True, exist_ok=True)
    command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state_dir), "--pcr-banks", "sha256"]
    command += ["--not-overwrite"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=SETUP_TIMEOUT_S, check=False)
    if made.returncode:
        raise TpmUnavailableError(f"swtpm_setup failed: {(made.stdout + made.stderr)[-500:]}")
    log.info("made a software TPM in %.1f s", time.monotonic() - begin)


def _command(state_dir: Path) -> list[str]:
    return [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state_dir}"),
        *("--server", f"type=tcp,port={PORT},bindaddr=127.0.0.1"),
        *("--ctrl", f"type=tcp,port={PORT + 1},bindaddr=127.0.0.1"),
        *("--flags", "not-need-init,startup-clear", "--log", f"file={state_dir / _LOG},truncate"),
    ]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_listening(process: "subprocess.Popen[bytes]", state_dir: Path) -> None:
    """The control channel is asked: a connection to the other one would take the TPM's only client place."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", PORT + 1), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TpmUnavailableError(_last_words(state_dir))


def _last_words(state_dir: Path) -> str:
    log_path = state_dir / _LOG
    said = log_path.read_text(errors="replace")[-500:] if log_path.exists() else ""
    return (
        "the software TPM does not run: start the node again. If the TPM's state is damaged, put the newest copy of "
        f"{state_dir} back, or remove the volume to start over without the stored keys. It says: {said}"
    )
