"""A software TPM beside the node: made at the first start, started with it, ended with it, its state in the volume."""

import ctypes
import logging
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.sealing.errors import TpmUnavailableError

log = logging.getLogger("kmstn.sealing")

PORT = 2321  # The control channel is always the next port.
START_TIMEOUT_S = 10.0
SETUP_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1


@contextmanager
def running_swtpm(state_dir: Path) -> Iterator[str]:
    """Run the TPM; yields the TCTI string that reaches it. Raises TpmUnavailableError quoting its log."""
    if shutil.which("swtpm") is None:
        raise TpmUnavailableError("swtpm is not installed: use the node image, or sealing: unsafe-plaintext")
    state_dir.mkdir(parents=True, exist_ok=True)
    if not (state_dir / "tpm2-00.permall").exists():
        _set_up(state_dir)
    log_path = state_dir / "swtpm.log"
    process = subprocess.Popen(_command(state_dir, log_path), preexec_fn=_die_with_parent)
    try:
        _wait_until_listening(process, log_path)
        yield f"swtpm:host=127.0.0.1,port={PORT}"
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT_S)


def _set_up(state_dir: Path) -> None:
    """Make the TPM's state. Without endorsement key and certificate: nothing here attests, and they take a second."""
    begin = time.monotonic()
    command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state_dir), "--pcr-banks", "sha256"]
    command += ["--not-overwrite"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=SETUP_TIMEOUT_S, check=False)
    if made.returncode:
        raise TpmUnavailableError(f"swtpm_setup failed: {(made.stdout + made.stderr)[-500:]}")
    log.info("made a software TPM in %.1f s", time.monotonic() - begin)


def _command(state_dir: Path, log_path: Path) -> list[str]:
    return [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state_dir}"),
        *("--server", f"type=tcp,port={PORT},bindaddr=127.0.0.1"),
        *("--ctrl", f"type=tcp,port={PORT + 1},bindaddr=127.0.0.1"),
        *("--flags", "not-need-init,startup-clear", "--log", f"file={log_path},truncate"),
    ]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_listening(process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    """The control channel is asked: a connection to the other one would take the TPM's only client place."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", PORT + 1), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    said = log_path.read_text(errors="replace")[-500:] if log_path.exists() else ""
    raise TpmUnavailableError(f"swtpm did not start within {START_TIMEOUT_S:g} s: {said}")
