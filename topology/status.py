"""What a running testbed looks like: nodes, devices, links as requested and as measured, pools."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import httpx

from topology.errors import ApiRefused
from topology.impairments import verdict
from topology.node_api import NodeApis
from topology.plan import LinkPlan
from topology.testbed import Testbed

ROUTER_STATE = "/run/router/state.json"


def status(testbed: Testbed) -> dict[str, Any]:
    """Gather the document of `status --json`; what does not answer is reported as such."""
    apis = testbed.apis()
    nodes = [access.node for access in testbed.plan.access]
    try:
        with ThreadPoolExecutor(4) as workers:
            told = dict(zip(nodes, workers.map(lambda node: _ask(apis, node), nodes), strict=True))
            memory = dict(zip(nodes, workers.map(lambda node: _memory(testbed, node), nodes), strict=True))
            routers = sorted({router for link in testbed.plan.links for router in link.routers})
            states = dict(zip(routers, workers.map(lambda one: _router_state(testbed, one), routers), strict=True))
        return {
            "testbed": testbed.name,
            "nodes": [_node(testbed, apis, node, told[node], memory[node]) for node in nodes],
            "devices": [device for node in nodes for device in _devices(testbed, node, told[node])],
            "links": [_link(link, told, states) for link in testbed.plan.links],
            "pools": [{"node": node, **pool} for node in nodes for pool in told[node].get("pools", [])],
        }
    finally:
        apis.close()


def problems(document: dict[str, Any]) -> list[str]:
    """Everything in a status that is not as it should be, a line each."""
    return [
        *(f"node {node['name']}: {'; '.join(node['reasons'])}" for node in document["nodes"] if not node["healthy"]),
        *(f"device {one['name']}: {one['reason']}" for one in document["devices"] if not one["healthy"]),
        *(
            f"link {link['name']}: asked {link['requested']['rtt_ms']:g} ms round trip, measured "
            f"{link['measured']['rtt_ms']} ms ({link['backend']})"
            for link in document["links"]
            if link["verdict"] != "ok"
        ),
    ]


def _ask(apis: NodeApis, node: str) -> dict[str, Any]:
    try:
        return apis.status(node)
    except (httpx.HTTPError, ApiRefused) as error:
        reason = f"its operator API does not answer: {error or type(error).__name__}"
        return {"healthy": False, "reasons": [reason], "sealing": None}


def _memory(testbed: Testbed, node: str) -> float | None:
    return testbed.engine.memory_mib(testbed.plan.container(node).name)


def _router_state(testbed: Testbed, router: str) -> dict[str, Any]:
    content = testbed.engine.read_file(testbed.plan.container(router).name, ROUTER_STATE)
    try:
        state: dict[str, Any] = json.loads(content or b"{}")
    except ValueError:
        state = {}
    return state


def _node(
    testbed: Testbed, apis: NodeApis, node: str, told: dict[str, Any], memory_mib: float | None
) -> dict[str, Any]:
    return {
        "name": node,
        "region": apis.access(node).region,
        "healthy": told["healthy"],
        "reasons": told["reasons"],
        "sealing": told["sealing"],
        "sae_api": apis.sae_url(node),
        "saes": [sae.sae for sae in testbed.plan.saes if sae.node == node],
        "memory_mib": memory_mib,
        "counters": told.get("counters", {}),
        "routes": told.get("routes", []),
    }


def _devices(testbed: Testbed, node: str, told: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The devices beside a node, as it sees them; when it does not answer, nothing is known of them."""
    if "devices" in told:
        yield from told["devices"]
        return
    for neighbour in _planned_devices(testbed, node):
        yield {"name": neighbour, "healthy": False, "stored_keys": None, "reason": f"{node} does not answer"}


def _planned_devices(testbed: Testbed, node: str) -> list[str]:
    names = {container.plain_name for container in testbed.plan.containers}
    return sorted(name for name in names if name.startswith(f"{node}-to-"))


def _link(link: LinkPlan, told: dict[str, dict[str, Any]], states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rtts = [
        neighbour["rtt_ms"]
        for node, other in (link.between, link.between[::-1])
        for neighbour in told[node].get("neighbours", [])
        if neighbour["node"] == other and neighbour["rtt_ms"] is not None
    ]
    rtt_ms = round(min(rtts), 2) if rtts else None
    requested_ms = 2 * link.requested.delay_ms
    backends = {states[router].get("backend", "unknown") for router in link.routers}
    return {
        "name": link.name,
        "kind": link.kind,
        "between": list(link.between),
        "requested": {**asdict(link.requested), "rtt_ms": requested_ms},
        "backend": " and ".join(sorted(backends)),
        "why": next((states[router]["reason"] for router in link.routers if states[router].get("reason")), ""),
        "measured": {"rtt_ms": rtt_ms},
        "verdict": verdict(requested_ms, rtt_ms, 2 * link.requested.jitter_ms),
    }
