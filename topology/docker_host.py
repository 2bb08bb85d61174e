"""Where the Docker daemon is asked for, and why it does not answer, with the exact remedy.

The address is `DOCKER_HOST`, else the current context of the docker command, else the usual socket.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from topology.errors import EngineUnreachable

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def daemon_address() -> str:
    """Find the daemon's address, as a URL."""
    return os.environ.get("DOCKER_HOST") or _context_address() or DEFAULT_ADDRESS


def is_remote() -> bool:
    """Whether the daemon runs on another machine, so that its 127.0.0.1 is not ours."""
    return not daemon_address().startswith(("unix://", "npipe://", "tcp://127.0.0.1", "tcp://localhost"))


def _context_address() -> str | None:
    """The address that `docker context use` chose; the docker command keeps it in its own files."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        chosen = os.environ.get("DOCKER_CONTEXT") or json.loads((folder / "config.json").read_text())["currentContext"]
        for path in folder.glob("contexts/meta/*/meta.json"):
            context = json.loads(path.read_text())
            if context["Name"] == chosen:
                return str(context["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def why_unreachable(error: BaseException) -> EngineUnreachable:
    """Tell apart: a DOCKER_HOST that leads nowhere, no daemon, no permission on the socket."""
    address = daemon_address()
    causes = list(_causes(error))
    if os.environ.get("DOCKER_HOST"):
        return EngineUnreachable(
            f"no Docker daemon answers at DOCKER_HOST={address} ({_reason(causes)}).",
            "Correct it, or `unset DOCKER_HOST` to use the daemon of this machine.",
        )
    path = address.removeprefix("unix://")
    if any(isinstance(cause, PermissionError) for cause in causes):
        return EngineUnreachable(
            f"this user may not use the Docker socket {path}.",
            "Run `sudo usermod -aG docker $USER` and log in again (or `newgrp docker` in this terminal).",
        )
    if not Path(path).exists():
        return EngineUnreachable(f"there is no Docker daemon here: {path} does not exist.", _how_to_get_docker())
    return EngineUnreachable(
        f"the Docker daemon behind {path} does not answer ({_reason(causes)}).",
        "Start it: `sudo systemctl start docker` (or `sudo service docker start`), then try again.",
    )


def _how_to_get_docker() -> str:
    if sys.platform == "darwin":
        return "Start Docker Desktop or colima, and check that `docker version` shows a server."
    return (
        "If it is installed: `sudo systemctl start docker`. If not, on Debian or Ubuntu: "
        "`sudo apt-get install docker.io && sudo usermod -aG docker $USER`, then log in again."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything beneath it; requests and urllib3 keep their causes in `args`."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, *one.args, getattr(one, "reason", None)]


def _reason(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return f"unknown host: {cause.strerror}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return str(causes[-1]) if causes else "no answer"
