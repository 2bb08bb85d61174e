"""The plans of the project's testbeds as golden files, made by `python tests/unit/topology/golden_plans.py`."""

import json
import sys
from ipaddress import IPv4Network
from pathlib import Path

PROJECT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
TESTBEDS = ("three-regions", "two-nodes")

sys.path.insert(0, str(PROJECT))

from topology.addresses import candidate_ports  # noqa: E402
from topology.load import load_description  # noqa: E402
from topology.plan import Plan, plain  # noqa: E402
from topology.planned_access import OPERATOR_LISTENER  # noqa: E402
from topology.planner import make_plan  # noqa: E402


def plan_of(testbed: str) -> Plan:
    """The plan of one of the testbeds, in a fixed subnet and with the fibres lit at a fixed time."""
    description = load_description(PROJECT / "topology" / "testbeds" / f"{testbed}.yaml")
    nodes = list(description.regions_of_nodes())
    listeners = [*nodes, OPERATOR_LISTENER]
    ports = next(candidate_ports(testbed, listeners))
    return make_plan(description, testbed, IPv4Network("10.88.0.0/16"), 1_700_000_000.0, ports)


def golden_text(testbed: str) -> str:
    """The plan as its golden file holds it, every text file line by line, with the spec of each container."""
    plan = plan_of(testbed)
    document = plain(plan)
    assert isinstance(document, dict)
    for part in ("networks", "containers"):
        for written, planned in zip(document[part], getattr(plan, part), strict=True):
            written["spec"] = planned.spec
    for container in document["containers"]:
        for file in container["files"]:
            if isinstance(file["content"], str):
                file["content"] = file["content"].splitlines()
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    for name in TESTBEDS:
        (GOLDEN / f"{name}.json").write_text(golden_text(name), encoding="utf-8")
