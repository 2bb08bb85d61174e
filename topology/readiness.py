"""Waiting until a testbed can deliver keys: every node healthy, every other node's SAEs within its reach.

Every wait is bounded; when it ends in vain, the message quotes what the nodes say and the last lines of their logs.
"""

import time
from collections.abc import Callable

import httpx

from topology.engine import Engine
from topology.errors import ApiRefused, NotReady
from topology.node_api import NodeApis
from topology.plan import Plan

PAUSE_S = 0.3
LOG_LINES = 8


def wait_until_ready(engine: Engine, plan: Plan, apis: NodeApis, timeout_s: float) -> None:
    """Return when every node is ready; raises NotReady."""
    deadline = time.monotonic() + timeout_s
    waiting = {access.node: "" for access in plan.access}
    while waiting and time.monotonic() < deadline:
        for node in list(waiting):
            waiting[node] = _not_ready(plan, apis, node)
            if not waiting[node]:
                del waiting[node]
        if _has_ended(engine, plan, waiting):
            break
        if waiting:
            time.sleep(PAUSE_S)
    if waiting:
        raise NotReady(_explained(engine, plan, waiting, timeout_s))


def wait_for(what: str, holds: Callable[[], bool], timeout_s: float) -> None:
    """Return when `holds` does; raises NotReady naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise NotReady(f"{what}: not within {timeout_s:g} s")
        time.sleep(PAUSE_S)


def _not_ready(plan: Plan, apis: NodeApis, node: str) -> str:
    """Say why a node is not ready; empty when it is."""
    try:
        status = apis.status(node)
    except (httpx.HTTPError, ApiRefused) as error:
        return str(error) or type(error).__name__
    if not status["healthy"]:
        return "; ".join(status["reasons"])
    known = {route["node"] for route in status["routes"]} | {node}
    unknown = sorted({sae.node for sae in plan.saes if _may_meet(plan, node, sae.node)} - known)
    return f"no route yet to {', '.join(unknown)}" if unknown else ""


def _has_ended(engine: Engine, plan: Plan, waiting: dict[str, str]) -> bool:
    """Whether one of the nodes stopped, so that waiting on is in vain."""
    if not waiting:
        return False
    states = {one.plain_name: one.state for one in engine.containers(plan.testbed)}
    ended = [node for node in waiting if states.get(node) in ("exited", "dead", None)]
    waiting.update(dict.fromkeys(ended, "its container has stopped"))
    return bool(ended)


def _may_meet(plan: Plan, node: str, other: str) -> bool:
    """Whether an SAE of one node may exchange keys with one of the other, so that there must be a route."""
    if plan.allowed_pairs is None:
        return True
    homes = {sae.sae: sae.node for sae in plan.saes}
    return any({homes[master], homes[slave]} == {node, other} for master, slave in plan.allowed_pairs)


def _explained(engine: Engine, plan: Plan, waiting: dict[str, str], timeout_s: float) -> str:
    lines = [f"not ready (limit {timeout_s:g} s):"]
    for node, reason in waiting.items():
        lines.append(f"  {node}: {reason}")
        lines += [f"    | {line}" for line in engine.log_tail(plan.container(node).name, LOG_LINES)]
    return "\n".join(lines)
