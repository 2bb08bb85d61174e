"""Which images a testbed needs, how they are named after their content, and the building of those that are missing.

A tag is `kmstn/<role>:<12 hex digits>` of a digest over the Dockerfile, every file of its context, and the tags it is
built from: whatever changes, only what depends on it is built again. The host's CA bundle goes along as a context file
for build stages and is left out of the digest. What a Dockerfile does is not here but in `images/`, and no Docker
library is used: the engine comes in as an `ImageEngine`.
"""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Protocol

PROJECT_ROOT = Path(__file__).resolve().parent.parent
CA_BUNDLE = "ca-bundle.crt"
TAIL_LINES = 20
BUILD_WORKERS = 2

BASE_IMAGE = "debian:trixie-slim"
PULL_TIMEOUT_S = 8.0
BOOTSTRAP_TIMEOUT_S = 900.0
BOOTSTRAP = ("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "trixie")
INSTALL_BOOTSTRAP = ("apt-get", "install", "--yes", "--no-install-recommends", "mmdebstrap", "debian-archive-keyring")

Progress = Callable[[str, str, float, str], None]
"""Told (role, `building` | `cached` | `done`, seconds so far, last line of output); called from several threads."""


class ImageEngine(Protocol):
    """What is asked of a Docker daemon. Calls come from two threads at once."""

    def has_image(self, tag: str) -> bool:
        """Whether the daemon holds an image of this name."""

    def build(self, context_tar: bytes, tag: str, build_args: Mapping[str, str]) -> Iterator[str]:
        """Build and tag the Dockerfile at the context's root, yielding output lines; raises `BuildStopped`."""

    def import_base(self, tar_path: Path, tag: str) -> None:
        """Make an image of a root file system, a tar file of this host."""

    def pull(self, name: str, timeout_s: float) -> bool:
        """Fetch an image from its registry; false if that does not succeed in time."""

    def tag(self, name: str, new_tag: str) -> None:
        """Give an image of the daemon a further name."""


class BuildStopped(Exception):
    """The daemon ended a build; the message is the daemon's."""


class ImageBuildError(Exception):
    """An image could not be made: which one, at which step, and the last lines of output."""

    def __init__(self, role: str, step: str, tail: Iterable[str]) -> None:
        self.role = role
        self.step = step
        self.tail = tuple(tail)[-TAIL_LINES:]
        super().__init__("\n    ".join([f"image {role}: failed at {step}", *self.tail]))


@dataclass(frozen=True)
class Recipe:
    """One image: its build arguments that name other images, and what its context holds beside `images/<role>/`."""

    parents: Mapping[str, str]
    lock_files: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    fetches: bool = False
    """Whether a build stage fetches over HTTPS and so is given the host's CA bundle."""


# The part of the node that devices speak its protocols and identities with.
SHARED_NODE_CODE = ("node/__init__.py", "node/identity_uri.py", "node/settings.py", "node/wire", "node/mutual_tls")
RECIPES: Mapping[str, Recipe] = {
    "liboqs": Recipe({"BASE": "base"}, fetches=True),
    "python": Recipe({"BASE": "base"}),
    "node-deps": Recipe({"PYTHON": "python"}, ("build.lock", "node.lock"), fetches=True),
    "node": Recipe({"LIBOQS": "liboqs", "NODE_DEPS": "node-deps"}, code=("node",)),
    "node-test": Recipe({"NODE": "node", "PYTHON": "python"}, ("test.lock",), fetches=True),
    "device-deps": Recipe({"PYTHON": "python"}, ("device.lock",), fetches=True),
    "device": Recipe({"DEVICE_DEPS": "device-deps"}, code=("emulators", *SHARED_NODE_CODE)),
    "load-deps": Recipe({"PYTHON": "python"}, ("load.lock",), fetches=True),
    "load": Recipe({"LOAD_DEPS": "load-deps"}, code=("loadtests",)),
    "router": Recipe({"PYTHON": "python"}),
    "access": Recipe({"BASE": "base"}),
}
TESTBED_ROLES = ("node", "device", "router", "access", "load")


@dataclass(frozen=True)
class ImagePlan:
    """What is built under which tag: context path -> content, and build argument -> parent's tag.

    The contents are read once, so that a file edited meanwhile is not built under the tag of what it was before.
    """

    role: str
    tag: str
    files: Mapping[str, bytes] = field(repr=False)
    build_args: Mapping[str, str]


def plan_images(roles: Iterable[str], root: Path = PROJECT_ROOT) -> dict[str, ImagePlan]:
    """Plan these roles and all they are built from, parents first. Raises KeyError for an unknown role."""
    plans = {"base": ImagePlan("base", base_tag(), {}, {})}
    for role in roles:
        _plan_into(plans, role, root)
    return plans


def base_tag() -> str:
    """Name the Debian base by its recipe: the pulled and the bootstrapped one serve equally."""
    return _tag("base", [" ".join(BOOTSTRAP).encode(), BASE_IMAGE.encode()])


def _plan_into(plans: dict[str, ImagePlan], role: str, root: Path) -> None:
    if role in plans:
        return
    recipe = RECIPES[role]
    for parent in recipe.parents.values():
        _plan_into(plans, parent, root)
    files = {path: source.read_bytes() for path, source in context_files(role, root).items()}
    build_args = {name: plans[parent].tag for name, parent in recipe.parents.items()}
    parts = [f"{name}={value}".encode() for name, value in sorted(build_args.items())]
    for path, content in sorted(files.items()):
        parts += [path.encode(), content]
    plans[role] = ImagePlan(role, _tag(role, parts), files, build_args)


def _tag(role: str, parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return f"kmstn/{role}:{digest.hexdigest()[:12]}"


def context_files(role: str, root: Path = PROJECT_ROOT) -> dict[str, Path]:
    """Map each path of the role's build context to a file of the project; no README, no byte code."""
    recipe = RECIPES[role]
    folder = root / "images" / role
    files = {str(path.relative_to(folder)): path for path in _source_files(folder)}
    files |= {name: root / "images" / "locks" / name for name in recipe.lock_files}
    for name in recipe.code:
        files |= {f"code/{path.relative_to(root)}": path for path in _source_files(root / name)}
    return files


def _source_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for found in path.rglob("*"):
        if found.is_file() and found.name != "README.md" and "__pycache__" not in found.parts:
            yield found


def context_tar(plan: ImagePlan, ca_bundle: bytes) -> bytes:
    """Pack a context, the same bytes for the same content; `ca_bundle` may be empty and goes to roles that fetch."""
    contents = dict(plan.files)
    if RECIPES[plan.role].fetches:
        contents[CA_BUNDLE] = ca_bundle
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in sorted(contents.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def host_ca_bundle() -> bytes:
    """Read the certificates this host trusts (public), or nothing if it keeps them elsewhere."""
    path = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    return path.read_bytes() if path.is_file() else b""


def ensure_images(
    engine: ImageEngine, roles: Iterable[str], progress: Progress, root: Path = PROJECT_ROOT
) -> dict[str, str]:
    """Build what is missing for these roles, two at a time, and return role -> tag; raises `ImageBuildError`."""
    roles = tuple(roles)
    plans = plan_images(roles, root)
    missing: dict[str, ImagePlan] = {}
    for role in roles:
        if not _collect_missing(engine, plans, role, missing):
            progress(role, "cached", 0.0, plans[role].tag)
    _build_in_order(missing, partial(_make, engine, progress=progress))
    return {role: plans[role].tag for role in roles}


def _collect_missing(
    engine: ImageEngine, plans: Mapping[str, ImagePlan], role: str, missing: dict[str, ImagePlan]
) -> bool:
    """Add the role to `missing` if the engine lacks it, and then whatever it needs in turn."""
    if role not in missing and not engine.has_image(plans[role].tag):
        missing[role] = plans[role]
        for parent in _parents(role):
            _collect_missing(engine, plans, parent, missing)
    return role in missing


def _parents(role: str) -> tuple[str, ...]:
    return () if role == "base" else tuple(RECIPES[role].parents.values())


def _build_in_order(missing: Mapping[str, ImagePlan], make: Callable[[ImagePlan], None]) -> None:
    order = TopologicalSorter({role: [p for p in _parents(role) if p in missing] for role in missing})
    order.prepare()
    with ThreadPoolExecutor(BUILD_WORKERS) as workers:
        running: dict[Future[None], str] = {}
        try:
            while order.is_active():
                running |= {workers.submit(make, missing[role]): role for role in order.get_ready()}
                for finished in wait(running, return_when=FIRST_COMPLETED).done:
                    finished.result()
                    order.done(running.pop(finished))
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def _make(engine: ImageEngine, plan: ImagePlan, progress: Progress) -> None:
    started = time.monotonic()

    def report(state: str, line: str) -> None:
        progress(plan.role, state, time.monotonic() - started, line)

    if plan.role == "base":
        _make_base(engine, plan.tag, partial(report, "building"))
    else:
        _build(engine, plan, partial(report, "building"))
    report("done", plan.tag)


def _build(engine: ImageEngine, plan: ImagePlan, report: Callable[[str], None]) -> None:
    step, tail = "its start", deque[str](maxlen=TAIL_LINES)
    report("starting")
    try:
        for line in engine.build(context_tar(plan, host_ca_bundle()), plan.tag, plan.build_args):
            if not line.strip():
                continue
            tail.append(line)
            step = line if line.startswith("Step ") else step
            report(line)
    except BuildStopped as stopped:
        raise ImageBuildError(plan.role, step, [*tail, str(stopped)]) from stopped


def _make_base(engine: ImageEngine, tag: str, report: Callable[[str], None]) -> None:
    report(f"pulling {BASE_IMAGE}")
    if engine.pull(BASE_IMAGE, PULL_TIMEOUT_S):
        engine.tag(BASE_IMAGE, tag)
        return
    _require_bootstrap(report)
    report("no registry: bootstrapping Debian with mmdebstrap")
    with tempfile.TemporaryDirectory(prefix="kmstn-base-") as folder:
        tar_path = Path(folder) / "base.tar"
        _run("mmdebstrap", (*BOOTSTRAP, str(tar_path)))
        engine.import_base(tar_path, tag)


def _require_bootstrap(report: Callable[[str], None]) -> None:
    if shutil.which("mmdebstrap"):
        return
    command = " ".join(INSTALL_BOOTSTRAP)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        advice = f"{BASE_IMAGE} cannot be pulled and mmdebstrap is not installed. On Debian or Ubuntu: sudo {command}"
        raise ImageBuildError("base", "looking for mmdebstrap", [advice])
    report(f"installing mmdebstrap: {command}")
    _run("apt-get update", ("apt-get", "update", "--quiet=2"))
    _run("apt-get install", INSTALL_BOOTSTRAP)


def _run(step: str, command: tuple[str, ...]) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BOOTSTRAP_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as failed:
        raise ImageBuildError("base", step, str(failed.stdout).splitlines()) from failed
    except subprocess.TimeoutExpired as expired:
        raise ImageBuildError("base", step, [f"not finished after {BOOTSTRAP_TIMEOUT_S:.0f} s"]) from expired
