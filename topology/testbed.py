"""One testbed by its name: brought up from a description, looked up again, taken down by label.

`up` converges: it leaves what is as planned, and finishes what an interrupted run left half done. What was chosen for a
testbed (addresses, ports, keys) is kept in `.testbeds/NAME` of the project until `down`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from topology.addresses import check_clashes
from topology.converge import Changes, bring_about, prepare, take_away
from topology.engine import Engine
from topology.errors import EngineError, TestbedError, UnknownName
from topology.images import PROJECT_ROOT, ensure_images
from topology.load import load_description
from topology.naming import Kind
from topology.node_api import NodeApis
from topology.pki import Pki, drop_seed, ensure_pki, resolve
from topology.placement import choose_ports, choose_subnet
from topology.plan import Plan, SeedRef
from topology.planner import make_plan
from topology.progress import Progress
from topology.readiness import wait_until_ready
from topology.state import Choices, StateFolder, names_kept

TESTBEDS = PROJECT_ROOT / "topology" / "testbeds"
DEFAULT_DESCRIPTION = TESTBEDS / "three-regions.yaml"
ROLES = ("node", "device", "router", "access")
READY_TIMEOUT_S = 90.0
DAEMON_PAUSE_S = 2.0


@dataclass(frozen=True)
class Testbed:
    """A testbed that was brought up: its plan, its certificates, the engine it runs on."""

    __test__ = False  # pytest takes every class named Test* for a collection of tests.

    engine: Engine
    plan: Plan
    pki: Pki

    @property
    def name(self) -> str:
        """Its name, the prefix of all its containers."""
        return self.plan.testbed

    def apis(self) -> NodeApis:
        """Clients for its nodes; close them."""
        return NodeApis(self.plan, self.pki)


def find_description(given: str | None) -> Path:
    """Find a description: a file, or the bare name of one in topology/testbeds."""
    if given is None:
        return DEFAULT_DESCRIPTION
    path = Path(given)
    named = TESTBEDS / f"{given}.yaml"
    return named if not path.exists() and named.exists() else path


def bring_up(engine: Engine, file: Path, name: str | None, progress: Progress) -> tuple[Testbed, Changes]:
    """Make the testbed of a description run and ready; raises DescriptionError, TestbedError, ImageBuildError."""
    description = load_description(file)
    name = name or description.testbed
    engine.facts()
    tags = ensure_images(engine, ROLES, progress.image)
    state = StateFolder(name)
    known = state.choices()
    choices = known or Choices(time.time(), "", {})
    if known is None or not _still_fits(engine, choices, name, description.subnet):
        choices = replace(choices, subnet=str(choose_subnet(engine, description, name)))
    if not _access_runs(engine, name):
        remote = engine.facts().remote
        choices = replace(choices, host_ports=choose_ports(description, name, remote))
    plan = make_plan(description, name, choices.subnet_base, choices.lit_at, choices.host_ports)
    state.keep(choices, file, plan)
    _renew_fibres(engine, plan, state.pki)
    pki = ensure_pki(state.pki, plan, datetime.now(UTC))
    wanted = prepare(plan, tags, lambda content: resolve(content, pki))
    try:
        changes = bring_about(engine, wanted, progress)
    except EngineError as error:
        # The daemon may still have been busy with what a killed run asked for: look again, once.
        progress.say(f"  {error}; looking again")
        time.sleep(DAEMON_PAUSE_S)
        changes = bring_about(engine, wanted, progress)
    testbed = Testbed(engine, plan, pki)
    with progress.step("nodes ready"):
        apis = testbed.apis()
        try:
            wait_until_ready(engine, plan, apis, READY_TIMEOUT_S)
        finally:
            apis.close()
    return testbed, changes


def look_up(engine: Engine, name: str | None) -> Testbed:
    """Find a testbed that was brought up; without a name, the only one there is. Raises UnknownName, TestbedError."""
    name = resolve_name(engine, name)
    state = StateFolder(name)
    choices = state.choices()
    if choices is None or not state.description.exists():
        raise TestbedError(
            f"testbed {name} runs, but {state.path} does not hold its keys: it was brought up from another folder. "
            f"Use that one, or take it down with `invoke down --name {name}`"
        )
    description = load_description(state.description)
    plan = make_plan(description, name, choices.subnet_base, choices.lit_at, choices.host_ports)
    return Testbed(engine, plan, Pki(state.pki))


def resolve_name(engine: Engine, name: str | None) -> str:
    """Settle which testbed is meant; raises UnknownName, or TestbedError when there are several to choose from."""
    there_are = sorted({one.testbed for one in engine.containers()} | set(names_kept()))
    if name is not None:
        if name not in there_are:
            raise UnknownName("testbed", name, there_are)
        return name
    if len(there_are) > 1:
        raise TestbedError(f"there are several testbeds: {', '.join(there_are)}. Say which with `--name`")
    if not there_are:
        raise TestbedError("there is no testbed: `invoke up` brings one up")
    return there_are[0]


def names_to_clear(engine: Engine) -> set[str]:
    """Every testbed of which anything is left: container, network, volume or state folder."""
    labelled = {one.testbed for one in (*engine.containers(), *engine.networks(), *engine.volumes())}
    return (labelled | set(names_kept())) - {""}


def take_down(engine: Engine, name: str) -> int:
    """Remove everything that carries the testbed's label, and its state; returns how many things there were."""
    removed = take_away(engine, name)
    StateFolder(name).remove()
    return removed


def _still_fits(engine: Engine, choices: Choices, name: str, fixed: object) -> bool:
    """Whether the addresses chosen before may stay: nobody else took them, and the description does not move them."""
    if fixed is not None and str(fixed) != choices.subnet:
        return False
    if any(network.testbed == name for network in engine.networks()):
        return True
    others = [(one.name, subnet) for one in engine.networks() for subnet in one.subnets]
    return not check_clashes([choices.subnet_base], others)


def _access_runs(engine: Engine, name: str) -> bool:
    """Whether the testbed holds its host ports: then they are its own, though they are not free."""
    return any(one.kind == Kind.ACCESS and one.state == "running" for one in engine.containers(name)) and bool(
        StateFolder(name).choices()
    )


def _renew_fibres(engine: Engine, plan: Plan, pki: Path) -> None:
    """Give a fibre a new seed when a device on it lost its volume.

    The volume holds how far the device has handed keys out; without it, the old seed would give the same keys again.
    """
    existing = {volume.name for volume in engine.volumes(plan.testbed)}
    for container in plan.containers:
        seeds: Mapping[str, None] = {
            file.content.link: None for file in container.files if isinstance(file.content, SeedRef)
        }
        if seeds and not all(mount.volume in existing for mount in container.volumes):
            for link in seeds:
                drop_seed(pki, link)
