"""What each task does: the work, then its report, then the exit code. Errors become one clear message, no traceback."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

from topology import doctor as doctor_module
from topology import status as status_module
from topology import tables, verification
from topology.bench import run_bench
from topology.credentials import attach as attach_container
from topology.credentials import write_credentials
from topology.docker_runtime import DockerEngine
from topology.errors import TestbedError, UnknownName
from topology.exchange import Exchange, all_pairs, default_pair, exchange_all, prove
from topology.exchange import report as exchange_report
from topology.images import TESTBED_ROLES, ImageBuildError, ensure_images
from topology.load import DescriptionError
from topology.load_test import run_load
from topology.progress import Progress, print_json, report_console
from topology.testbed import Testbed, bring_up, find_description, look_up, names_to_clear, resolve_name, take_down

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130
PROOF_WITHIN_S = 20.0
Parameters = ParamSpec("Parameters")


def command(work: Callable[Parameters, bool]) -> Callable[Parameters, None]:
    """Turn a function that says whether what was asked held into a command that ends with an exit code."""

    @functools.wraps(work)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> None:
        try:
            held = work(*arguments, **options)
        except KeyboardInterrupt:
            print("\ninterrupted: `invoke up` goes on from here, `invoke down` clears it away", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except (TestbedError, DescriptionError, ImageBuildError) as error:
            if os.environ.get("KMSTN_DEBUG"):
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(WRONG_USE if isinstance(error, DescriptionError) else FAILED)
        if not held:
            sys.exit(FAILED)

    return run


def number(option: str, text: str) -> str:
    """Check that an option is a number above 0, and return it as it stands; raises TestbedError."""
    try:
        above_zero = float(text) > 0
    except ValueError:
        above_zero = False
    if not above_zero:
        raise TestbedError(f"{option} {text}: not a number above 0")
    return text


def whole(option: str, text: str, least: int | None = None) -> int:
    """Read an option that is a whole number; what it may be for a node, the node says. Raises TestbedError."""
    try:
        value = int(text)
    except ValueError:
        raise TestbedError(f"{option} {text}: not a whole number") from None
    if least is not None and value < least:
        raise TestbedError(f"{option} {text}: at least {least}")
    return value


@command
def up(file: str | None, name: str | None, as_json: bool) -> bool:
    """Bring a testbed up and prove a key exchange between two regions."""
    begun, progress = time.monotonic(), Progress()
    engine = DockerEngine()
    testbed, changes = bring_up(engine, find_description(file), name, progress)
    for node in changes.dropped_stores:
        progress.say(f"  {node}: its store was sealed to the earlier software; it was dropped, and starts empty")
    with progress.step("a key between two SAEs"), _apis(testbed) as apis:
        proof = prove(apis, default_pair(testbed.plan), PROOF_WITHIN_S)
    document = {
        "testbed": testbed.name,
        "changed": bool(changes),
        "created": list(changes.created),
        "started": list(changes.started),
        "removed": list(changes.removed),
        "elapsed_s": round(time.monotonic() - begun, 1),
        "proof": proof.report(),
    }
    if as_json:
        print_json(document)
    else:
        tables.show_up(report_console(), testbed, document)
    return proof.identical


@command
def down(name: str | None, everything: bool, as_json: bool) -> bool:
    """Remove all of a testbed, or of every testbed."""
    engine, progress = DockerEngine(), Progress()
    there_are = names_to_clear(engine)
    if name is None and not everything and not there_are:
        names: list[str] = []
    else:
        names = sorted(there_are) if everything else [name or resolve_name(engine, None)]
    for one in set(names) - there_are:
        raise UnknownName("testbed", one, there_are)
    removed = {}
    for one in names:
        with progress.step(f"{one} down"):
            removed[one] = take_down(engine, one)
    if as_json:
        print_json({"removed": removed})
    elif not names:
        progress.say("there is no testbed")
    return True


@command
def status(name: str | None, as_json: bool) -> bool:
    """Show how a testbed is."""
    document = status_module.status(look_up(DockerEngine(), name))
    problems = status_module.problems(document)
    if as_json:
        print_json({**document, "problems": problems})
    else:
        tables.show_status(report_console(), document, problems)
    return not problems


@command
def exchange(
    name: str | None,
    pair: tuple[str | None, str | None],
    every_pair: bool,
    number: str,
    size_bits: str,
    as_json: bool,
) -> bool:
    """Exchange keys and compare them."""
    wanted = whole("--number", number), whole("--size", size_bits) if size_bits else None
    testbed = look_up(DockerEngine(), name)
    done = _exchange(testbed, _pairs(testbed, pair, every_pair), *wanted)
    document = exchange_report(done)
    if as_json:
        print_json(document)
    else:
        tables.show_exchanges(report_console(), done)
    return bool(done) and document["identical"] == len(done)


@command
def credentials(name: str | None, sae: str, out: str, as_json: bool) -> bool:
    """Write the files of an SAE."""
    written = write_credentials(look_up(DockerEngine(), name), sae, Path(out))
    if as_json:
        print_json({key: str(value) for key, value in vars(written).items()})
    else:
        print(f"{sae} is registered at {written.node}, {written.sae_api}", file=sys.stderr)
        print(written.curl)
    return True


@command
def attach(name: str | None, container: str, site: str, as_json: bool) -> bool:
    """Join a container to a site."""
    joined = attach_container(look_up(DockerEngine(), name), container, site)
    if as_json:
        print_json(joined)
    else:
        print(f"{container} has address {joined['address']} at {site}; the node there: {joined['sae_api']}")
    return True


@command
def logs(name: str | None, who: str, follow: bool, tail_lines: str) -> bool:
    """Print a container's log."""
    tail = whole("--tail", tail_lines, least=1)
    testbed = look_up(DockerEngine(), name)
    container = _container(testbed, who)
    lines = testbed.engine.follow_log(container, tail) if follow else testbed.engine.log_tail(container, tail)
    for line in lines:
        print(line)
    return True


@command
def shell(name: str | None, who: str) -> bool:
    """Open a shell with the docker command, which knows about terminals."""
    container = _container(look_up(DockerEngine(), name), who)
    try:
        interactive = "-it" if sys.stdin.isatty() else "-i"
        return subprocess.run(["docker", "exec", interactive, container, "sh"], check=False).returncode == 0
    except FileNotFoundError:
        raise TestbedError("the docker command is not installed; `shell` needs it for the terminal") from None


@command
def doctor(as_json: bool) -> bool:
    """Examine this machine."""
    findings = doctor_module.examine(DockerEngine())
    document = doctor_module.report(findings)
    if as_json:
        print_json(document)
    else:
        tables.show_findings(report_console(), findings)
    return bool(document["ready"])


@command
def load(name: str | None, users: str, duration_s: str, options: dict[str, str], as_json: bool) -> bool:
    """Run Locust in the testbed."""
    checked = {option: number(f"--{option}", text) for option, text in options.items()}
    figures = whole("--users", users, least=1), whole("--duration-s", duration_s, least=1)
    document = run_load(look_up(DockerEngine(), name), *figures, checked, Progress())
    if as_json:
        print_json(document)
    else:
        tables.show_load(report_console(), document)
    return bool(document["compared"] > 0 and document["different"] == 0 and document["missing"] == 0)


@command
def bench(requests: str, as_json: bool) -> bool:
    """Measure."""
    document = run_bench(DockerEngine(), whole("--requests", requests, least=1), Progress())
    if as_json:
        print_json(document)
    else:
        tables.show_bench(report_console(), document)
    return True


@command
def test(fast: bool, expression: str | None) -> bool:
    """Run the tests."""
    return verification.run_tests(DockerEngine(), fast=fast, expression=expression, progress=Progress())


@command
def check() -> bool:
    """Run the checks."""
    return verification.run_checks(Progress())


@command
def images(as_json: bool) -> bool:
    """Build and list the images."""
    engine = DockerEngine()
    tags = ensure_images(engine, TESTBED_ROLES, Progress().image)
    sizes = engine.image_sizes()
    document = {"images": [{"role": role, "tag": tag, "size_mb": sizes[tag] // 10**6} for role, tag in tags.items()]}
    if as_json:
        print_json(document)
    else:
        tables.show_images(report_console(), document["images"])
    return True


@command
def lock() -> bool:
    """Compile the lock files."""
    return verification.compile_locks()


@command
def golden() -> bool:
    """Write generated files anew."""
    return verification.write_generated()


def _exchange(testbed: Testbed, pairs: list[tuple[str, str]], number: int, size_bits: int | None) -> list[Exchange]:
    with _apis(testbed) as apis:
        return exchange_all(apis, pairs, number, size_bits)


@contextmanager
def _apis(testbed: Testbed) -> Iterator[Any]:
    apis = testbed.apis()
    try:
        yield apis
    finally:
        apis.close()


def _pairs(testbed: Testbed, pair: tuple[str | None, str | None], every_pair: bool) -> list[tuple[str, str]]:
    if every_pair:
        return all_pairs(testbed.plan)
    master, slave = pair
    if not master and not slave:
        return [default_pair(testbed.plan)]
    with _apis(testbed) as apis:
        for sae in filter(None, pair):
            apis.sae(sae)
    matching = [one for one in all_pairs(testbed.plan) if master in (None, one[0]) and slave in (None, one[1])]
    if master and slave:
        return [(master, slave)]
    if not matching:
        raise TestbedError(f"the policy gives {master or slave} nobody to exchange keys with")
    return matching[:1]


def _container(testbed: Testbed, who: str) -> str:
    names = {container.plain_name: container.name for container in testbed.plan.containers}
    if who not in names:
        raise UnknownName("container", who, names)
    return names[who]
