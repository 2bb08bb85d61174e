"""Running the tests and the checks: on this machine, inside the node image, against real containers.

Each suite is one pytest run; the summary at the end says what was tested and what was not.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from topology.engine import ContainerWish, Engine, ReadyFile
from topology.images import PROJECT_ROOT, ensure_images
from topology.progress import Progress

TESTED_IN_NODE_IMAGE = "/opt/kmstn"
COPIED = ("node", "emulators", "tests")
NO_TESTS_COLLECTED = 5
PLUGINS = "pytest_asyncio.plugin,xdist.plugin"


@dataclass(frozen=True)
class Suite:
    """A part of the tests: where they lie and which markers they carry."""

    title: str
    arguments: tuple[str, ...]
    in_node_image: bool = False


# The node image lacks what other tests import, so the folders are named.
IN_NODE_IMAGE = ("tests/unit/crypto", "tests/unit/sealing", "tests/integration/mutual_tls")
HOST_SUITES = (
    Suite("unit", ("tests/unit", "-m", "not node_image")),
    Suite("integration in process", ("tests/integration", "-m", "not node_image")),
    Suite("hostile input in process", ("tests/hostile",)),
    Suite("simulation of networks with seeded faults", ("tests/simulation",)),
)
CONTAINER_SUITES = (
    Suite("TPM, liboqs and post-quantum TLS in the node image", (*IN_NODE_IMAGE, "-m", "node_image"), True),
    Suite("kernel: delay line and real netem", ("tests/kernel",)),
    Suite("testbeds of real containers", ("tests/testbed",)),
)


def run_tests(engine: Engine, *, fast: bool, expression: str | None, progress: Progress) -> bool:
    """Run every suite, tell what each did, return whether all passed; `fast` leaves the containers out."""
    suites = HOST_SUITES if fast else HOST_SUITES + CONTAINER_SUITES
    outcomes = []
    for suite in suites:
        progress.say(f"== {suite.title}")
        begun = time.monotonic()
        arguments = (*suite.arguments, *(("-k", expression) if expression else ()))
        code = _in_node_image(engine, arguments, progress) if suite.in_node_image else _here(arguments)
        outcomes.append((suite.title, code, time.monotonic() - begun))
    progress.say("== tested")
    for title, code, seconds in outcomes:
        verdict = {0: "passed", NO_TESTS_COLLECTED: "no test selected"}.get(code, "FAILED")
        progress.say(f"  {verdict:16} {title} ({seconds:.0f} s)")
    if fast:
        progress.say("  not tested       what needs containers (leave out --fast)")
    return all(code == 0 or (code == NO_TESTS_COLLECTED and expression) for _title, code, _seconds in outcomes)


def run_checks(progress: Progress) -> bool:
    """Run format, lint, types, import contracts and freshness of generated files; return whether all hold."""
    python = sys.executable
    tools = os.path.dirname(python)
    checks = (
        (f"{tools}/ruff", "format", "--check", "."),
        (f"{tools}/ruff", "check", "."),
        (f"{tools}/mypy",),
        (f"{tools}/lint-imports",),
        (python, "-m", "topology.schema", "--check"),
        (python, "-m", "tests.vectors.make_vectors", "--check"),
    )
    failed = []
    for command in checks:
        title = " ".join(os.path.basename(part) for part in command[:4])
        with progress.step(title):
            done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(title)
            progress.say(done.stdout + done.stderr)
    for title in failed:
        progress.say(f"FAILED {title}")
    return not failed


def _here(arguments: tuple[str, ...]) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    # Plugins that are only installed are not loaded: pytest would rewrite their sources at every start. What it did
    # rewrite it may keep.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": PLUGINS}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(command, cwd=PROJECT_ROOT, check=False, env=environment).returncode


def _in_node_image(engine: Engine, arguments: tuple[str, ...], progress: Progress) -> int:
    image = ensure_images(engine, ("node-test",), progress.image)["node-test"]
    wish = ContainerWish(
        name=f"kmstn-node-test-{os.getpid()}",
        hostname="node-test",
        image=image,
        labels={"kmstn.test": "node-image"},
        files=tuple(_project_files()),
        working_dir=TESTED_IN_NODE_IMAGE,
        command=("python", "-m", "pytest", "-p", "no:cacheprovider", *arguments),
    )
    finished = engine.run(wish, progress.say)
    sys.stdout.write(finished.output)
    sys.stdout.flush()
    return finished.exit_code


def _project_files() -> Iterator[ReadyFile]:
    yield ReadyFile(f"{TESTED_IN_NODE_IMAGE}/pyproject.toml", (PROJECT_ROOT / "pyproject.toml").read_bytes())
    for folder in COPIED:
        for path in sorted((PROJECT_ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield ReadyFile(f"{TESTED_IN_NODE_IMAGE}/{path.relative_to(PROJECT_ROOT)}", path.read_bytes())


# Where each lock file's packages are named: its path, the group in pyproject.toml, the Python that installs it.
LOCKS = (
    ("requirements.lock", ("pyproject.toml", "--group", "dev"), "3.11"),
    ("images/locks/node.lock", ("--group", "node"), "3.13"),
    ("images/locks/device.lock", ("--group", "device"), "3.13"),
    ("images/locks/load.lock", ("--group", "load"), "3.13"),
    ("images/locks/build.lock", ("--group", "build"), "3.13"),
    ("images/locks/test.lock", ("--group", "test"), "3.13"),
)


def compile_locks() -> bool:
    """Pin every package anew, with hashes and without addresses."""
    flags = ("--universal", "--generate-hashes", "--no-header", "--no-annotate", "--upgrade", "--quiet")
    silent = ("--no-emit-index-url", "--no-emit-find-links")
    uv = os.path.join(os.path.dirname(sys.executable), "uv")
    return all(
        _run(uv, "pip", "compile", *source, *flags, *silent, "--python-version", python, "-o", path)
        for path, source, python in LOCKS
    )


def write_generated() -> bool:
    """Write the JSON schema and the golden plans anew."""
    return _run(sys.executable, "-m", "topology.schema") and _run(sys.executable, "tests/unit/topology/golden_plans.py")


def _run(*command: str) -> bool:
    return subprocess.run(command, cwd=PROJECT_ROOT, check=False).returncode == 0
