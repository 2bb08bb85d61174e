"""The plan: golden for the testbeds of the project, and consistent in itself for what the runtime relies on."""

import importlib.util
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import ModuleType

import pytest

from emulators.settings import EmulatedDeviceSettings
from node.settings import LinkKind, NodeSettings
from topology.load import parse_description
from topology.naming import Kind
from topology.plan import CertificateRef, ContainerPlan, Plan, PlannedFile, SeedRef
from topology.planner import make_plan

BASE = IPv4Network("10.88.0.0/16")


def _golden_plans() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_plans", Path(__file__).parent / "golden_plans.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = _golden_plans()


@pytest.fixture(params=["three-regions", "two-nodes"])
def plan(request: pytest.FixtureRequest) -> Plan:
    made = golden.plan_of(request.param)
    assert isinstance(made, Plan)
    return made


@pytest.fixture
def three_regions() -> Plan:
    made = golden.plan_of("three-regions")
    assert isinstance(made, Plan)
    return made


def settings_of(container: ContainerPlan) -> bytes:
    (content,) = [f.content for f in container.files if f.path.endswith("settings.json")]
    assert isinstance(content, bytes)
    return content


@pytest.mark.parametrize("testbed", ["three-regions", "two-nodes"])
def test_the_plan_is_the_golden_one(testbed: str) -> None:
    path = Path(__file__).parent / "golden" / f"{testbed}.json"
    assert golden.golden_text(testbed) == path.read_text(), "if this change is meant, run golden_plans.py"


def test_every_address_is_on_its_network_and_given_once(plan: Plan) -> None:
    networks = {network.name: network for network in plan.networks}
    seen: set[IPv4Address] = {network.gateway for network in plan.networks if network.gateway}
    for container in plan.containers:
        for leg in container.networks:
            network = networks[leg.network]
            assert leg.address in network.subnet
            assert leg.address not in seen, f"{container.name} takes an address that is somebody else's"
            assert network.dynamic_range is None or leg.address not in network.dynamic_range
            seen.add(leg.address)


def test_the_access_container_keeps_its_default_route_on_the_ordinary_network(plan: Plan) -> None:
    names = [leg.network for leg in plan.container("access").networks]
    assert names[0] == sorted(names)[0] == plan.network("access-net").name
    assert plan.container("access").sysctls == {"net.ipv4.ip_forward": "0"}


def test_no_capability_outside_the_routers(plan: Plan) -> None:
    for container in plan.containers:
        wanted = ("NET_ADMIN",) if container.kind is Kind.ROUTER else ()
        assert container.capabilities == wanted


def test_every_port_is_published_on_the_loopback_only(plan: Plan) -> None:
    published = [(container.kind, port) for container in plan.containers for port in container.ports]
    assert {(kind, port.host_ip) for kind, port in published} == {(Kind.ACCESS, "127.0.0.1")}
    host_ports = [port.host_port for _, port in published]
    assert len(set(host_ports)) == len(host_ports) == len(plan.access) + 1


def test_private_keys_and_seeds_are_references_that_only_their_user_may_read(plan: Plan) -> None:
    for container in plan.containers:
        for file in container.files:
            secret = isinstance(file.content, SeedRef) or file.path.endswith(".key")
            assert not (secret and isinstance(file.content, bytes))
            assert (file.mode == 0o400) is secret


def test_both_ends_of_a_qkd_link_know_each_other(plan: Plan) -> None:
    devices = [c for c in plan.containers if c.kind is Kind.DEVICE]
    settings = {c.plain_name: EmulatedDeviceSettings.model_validate_json(settings_of(c)) for c in devices}
    for name, own in settings.items():
        other = settings[own.peer_device]
        assert (other.peer_device, other.peer_node, other.link) == (name, own.node, own.link)
        assert {own.end, other.end} == {"a", "b"}
        assert own.lit_at == other.lit_at
        assert SeedRef(own.link) in [f.content for f in plan.container(name).files]


def test_neighbours_know_each_other_and_can_resolve_all_they_call(plan: Plan) -> None:
    nodes = [c for c in plan.containers if c.kind is Kind.NODE]
    settings = {c.plain_name: NodeSettings.model_validate_json(settings_of(c)) for c in nodes}
    for name, own in settings.items():
        hosts = plan.container(name).extra_hosts
        for neighbour in own.neighbours:
            back = {n.node: n for n in settings[neighbour.node].neighbours}[name]
            assert (back.link, back.kind, back.cost) == (neighbour.link, neighbour.kind, neighbour.cost)
            assert hosts[neighbour.node] == plan.hosts[neighbour.node]
            assert (neighbour.device is not None) is (neighbour.kind is LinkKind.QKD)
            assert neighbour.device is None or hosts[neighbour.device.name] == plan.hosts[neighbour.device.name]


def test_every_file_that_refers_to_a_certificate_has_one_planned(plan: Plan) -> None:
    planned = {(c.domain, c.role, c.name) for c in plan.certificates}
    for container in plan.containers:
        for file in container.files:
            content = file.content
            if isinstance(content, CertificateRef):
                assert (content.domain, content.role, content.name) in planned
    for sae in plan.saes:
        assert (sae.region, "sae", sae.sae) in planned


def walk(routers: dict[str, dict[str, list[dict[str, str]]]], plan: Plan, start: str, target: str) -> list[str]:
    """The routers that a packet passes from one node to another, as the routers' settings have it."""
    address = IPv4Address(plan.hosts[target])
    owner = {leg.address: c.plain_name for c in plan.containers if c.kind is Kind.ROUTER for leg in c.networks}
    here, passed = start, [start]
    while not any(address in IPv4Network(g["subnet"]) for g in routers[here]["gateways"]):
        (route,) = [r for r in routers[here]["routes"] if address in IPv4Network(r["subnet"])]
        here = owner[IPv4Address(route["via"])]
        assert here not in passed, f"a loop on the way to {target}"
        passed.append(here)
    return passed


def test_every_router_knows_a_way_to_every_node(plan: Plan) -> None:
    routers = {c.plain_name: json.loads(settings_of(c)) for c in plan.containers if c.kind is Kind.ROUTER}
    for start in routers:
        for node in {sae.node for sae in plan.saes}:
            assert len(walk(routers, plan, start, node)) <= 2


def test_each_direction_of_a_link_is_impaired_once_as_requested(three_regions: Plan) -> None:
    found: dict[str, list[tuple[float, float, float, float | None]]] = {}
    for container in three_regions.containers:
        if container.kind is Kind.ROUTER:
            for item in json.loads(settings_of(container))["impairments"]:
                figures = (item["delay_ms"], item["jitter_ms"], item["loss_percent"], item["rate_mbps"])
                found.setdefault(item["link"], []).append(figures)
    for link in three_regions.links:
        asked = link.requested
        one_way = (asked.delay_ms, asked.jitter_ms, asked.loss_percent, asked.rate_mbps)
        assert found.pop(link.name) == [one_way, one_way]
    assert not found


DETOUR = """\
testbed: detour
regions:
  a: {sites: {one: {node: n1, saes: [s1]}, two: {node: n2}}, qkd_links: [{between: [n1, n2], fibre_km: 1}]}
  b: {sites: {three: {node: n3, saes: [s3]}}}
  c: {sites: {four: {node: n4, saes: [s4]}, five: {node: n5}}, qkd_links: [{between: [n4, n5], fibre_km: 1}]}
wan_links:
  - {between: [n2, n3], delay: 1 ms}
  - {between: [n3, n5], delay: 1 ms}
  - {between: [n2, n4], delay: 50 ms}
"""


def test_border_nodes_meet_over_their_own_link_and_all_others_over_the_shortest_way() -> None:
    plan = make_plan(parse_description(DETOUR, "d.yaml"), "detour", BASE, 0.0)
    routers = {c.plain_name: json.loads(settings_of(c)) for c in plan.containers if c.kind is Kind.ROUTER}
    assert walk(routers, plan, "router-a", "n4") == ["router-a", "router-c"]
    assert walk(routers, plan, "router-a", "n5") == ["router-a", "router-b", "router-c"]
    assert walk(routers, plan, "router-c", "n1") == ["router-c", "router-b", "router-a"]


def test_a_node_learns_only_the_pairs_that_concern_its_own_saes() -> None:
    text = DETOUR + "policy: {sae_pairs: [[s1, s3], [s3, s1], [s4, s3]]}\n"
    plan = make_plan(parse_description(text, "d.yaml"), "detour", BASE, 0.0)
    told = NodeSettings.model_validate_json(settings_of(plan.container("n1"))).allowed_pairs
    assert told == (("s1", "s3"), ("s3", "s1"))


def test_a_node_holds_the_authorities_of_the_domains_it_trusts_and_no_other() -> None:
    pairs = "[[s1, s3], [s3, s4]]"
    text = DETOUR.replace("  - {between: [n2, n4], delay: 50 ms}\n", "")
    text += f"policy: {{trust: [[a, b], [b, c]], sae_pairs: {pairs}}}\n"
    plan = make_plan(parse_description(text, "d.yaml"), "detour", BASE, 0.0)
    folder = "/etc/kmstn/identity/domains"
    held = [file.path for file in plan.container("n1").files if file.path.startswith(folder)]
    assert held == [f"{folder}/a.crt", f"{folder}/b.crt"]
    assert NodeSettings.model_validate_json(settings_of(plan.container("n1"))).trusted_domains == ("b",)


def test_a_fixed_port_of_the_description_comes_before_a_chosen_one() -> None:
    text = DETOUR + "ports: {n1: 18443}\n"
    plan = make_plan(parse_description(text, "d.yaml"), "detour", BASE, 0.0, {"n1": 20000, "operator": 20001})
    ports = {item.node: (item.sae_host_port, item.operator_host_port) for item in plan.access}
    assert ports["n1"] == (18443, 20001)
    assert ports["n2"] == (None, 20001)


@pytest.mark.parametrize("name", ["", "Upper", "a" * 21, "-a", "a/b"])
def test_a_name_that_no_container_could_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a testbed"):
        make_plan(parse_description(DETOUR, "d.yaml"), name, BASE, 0.0)


def test_the_spec_changes_with_a_file_and_with_nothing_else(three_regions: Plan) -> None:
    container = three_regions.container("kmstn1")
    assert container.spec == golden.plan_of("three-regions").container("kmstn1").spec
    changed = (*container.files[:-1], PlannedFile(container.files[-1].path, b"other"))
    assert replace(container, files=changed).spec != container.spec
    assert container.labels["kmstn.spec"] == container.spec
