"""Whether this machine can run a testbed: everything looked at once, and for what is missing, how to get it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from topology.certificate_check import problems_of
from topology.engine import Engine, EngineFacts
from topology.errors import EngineError, EngineUnreachable
from topology.images import base_tag
from topology.state import STATE_ROOT, StateFolder, names_kept

PYTHON_WANTED = (3, 11)
API_WANTED = (1, 40)
DISK_WANTED_GIB = 6
MEMORY_WANTED_MIB = 2048
# Certificates with something wrong, before the rest is only counted.
SHOWN = 5

Verdict = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says exactly what to do about it."""

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(engine: Engine) -> list[Finding]:
    """Look at everything; never raises."""
    findings = [_python(), _disk(Path.cwd(), "disk of this folder"), *certificates(STATE_ROOT)]
    try:
        facts = engine.facts()
    except EngineUnreachable as error:
        return [*findings, Finding("Docker", "missing", error.problem, error.remedy)]
    except EngineError as error:
        return [*findings, Finding("Docker", "missing", str(error), "see the daemon's own log")]
    checks: list[Callable[[], Finding]] = [
        lambda: _engine(facts),
        lambda: _memory(facts),
        lambda: _storage(facts),
        lambda: _base_image(engine),
        lambda: _netem(facts),
        lambda: _networks(engine),
    ]
    return findings + [check() for check in checks]


def certificates(root: Path) -> list[Finding]:
    """Look at every certificate of every testbed that this machine keeps; never raises."""
    findings = []
    for name in names_kept(root):
        number, problems = problems_of(StateFolder(name, root).pki, datetime.now(UTC))
        what, remedy = f"certificates of {name}", "`invoke up` issues anew what is not good"
        if problems:
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            findings.append(Finding(what, "warning", "; ".join(problems[:SHOWN]) + more, remedy))
        else:
            findings.append(Finding(what, "ok", f"all {number} good"))
    return findings


def report(findings: list[Finding]) -> dict[str, Any]:
    """The document of `doctor --json`."""
    return {
        "ready": all(finding.verdict != "missing" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= PYTHON_WANTED:
        return Finding("Python", "ok", found)
    return Finding("Python", "missing", found, "install Python 3.11 or newer, and run tasks.py with it")


def _disk(path: Path, what: str) -> Finding:
    free_gib = shutil.disk_usage(path).free / 2**30
    if free_gib >= DISK_WANTED_GIB:
        return Finding(what, "ok", f"{free_gib:.0f} GiB free")
    remedy = f"free {DISK_WANTED_GIB} GiB: `docker system df` shows what Docker holds, `docker image prune` frees some"
    return Finding(what, "missing", f"{free_gib:.1f} GiB free", remedy)


def _engine(facts: EngineFacts) -> Finding:
    found = f"engine {facts.server_version}, API {facts.api_version}, {facts.operating_system}"
    version = tuple(int(part) for part in facts.api_version.split(".")[:2])
    if version >= API_WANTED:
        return Finding("Docker", "ok", found)
    return Finding("Docker", "missing", found, "install Docker Engine 19.03 or newer")


def _memory(facts: EngineFacts) -> Finding:
    found = f"{facts.memory_mib} MiB, {facts.cpus} cores"
    if facts.memory_mib >= MEMORY_WANTED_MIB:
        return Finding("memory", "ok", found)
    remedy = f"give the Docker daemon's machine {MEMORY_WANTED_MIB} MiB: a node takes some 70 MiB, a device 40 MiB"
    return Finding("memory", "warning", found, remedy)


def _storage(facts: EngineFacts) -> Finding:
    path = Path(facts.storage_path)
    if facts.remote or not path.is_dir() or not os.access(path, os.R_OK):
        return Finding("disk of Docker", "ok", f"{facts.storage_path}: not visible from here")
    return _disk(path, "disk of Docker")


def _base_image(engine: Engine) -> Finding:
    if engine.has_image(base_tag()):
        return Finding("base image", "ok", "built")
    if shutil.which("mmdebstrap"):
        return Finding("base image", "ok", "not built yet; mmdebstrap is there, should no registry answer")
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        return Finding("base image", "ok", "not built yet; `up` installs mmdebstrap, should no registry answer")
    remedy = "only if no image registry can be reached: `sudo apt-get install mmdebstrap`"
    return Finding("base image", "warning", "not built yet, and no mmdebstrap", remedy)


def _netem(facts: EngineFacts) -> Finding:
    if facts.remote:
        return Finding("link shaping", "ok", f"kernel {facts.kernel}: found out when the routers start")
    modules = Path("/lib/modules") / facts.kernel
    if any(modules.rglob("sch_netem.ko*")):
        return Finding("link shaping", "ok", f"netem in kernel {facts.kernel}")
    remedy = "nothing to do: the userspace delay line steps in, and `status` says so"
    return Finding("link shaping", "ok", f"no netem module for kernel {facts.kernel}", remedy)


def _networks(engine: Engine) -> Finding:
    number = len(engine.networks())
    return Finding("networks", "ok", f"{number} Docker networks; subnets that are free are looked for at `up`")
