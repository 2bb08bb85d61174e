"""A load test: Locust in a container inside the testbed, a leg in every site that has SAEs."""

import json
from ipaddress import IPv4Address
from typing import Any

from topology import naming
from topology.engine import ContainerWish, ReadyFile
from topology.errors import TestbedError
from topology.exchange import all_pairs
from topology.images import ensure_images
from topology.naming import Kind
from topology.plan import Attachment
from topology.planner import APPLICATION_UID
from topology.progress import Progress
from topology.testbed import Testbed

FOLDER = "/etc/load"
# Reserved for the load generator on every site network.
HOST_NUMBER = 251


def run_load(testbed: Testbed, users: int, duration_s: float, options: dict[str, Any], progress: Progress) -> Any:
    """Run the load test and return its document; its progress lines go to stderr. Raises TestbedError."""
    image = ensure_images(testbed.engine, ("load",), progress.image)["load"]
    command = ["python", "-m", "loadtests", "--json", "--users", str(users), "--duration-s", f"{duration_s:g}"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    finished = testbed.engine.run(_wish(testbed, image, tuple(command)), progress.say)
    try:
        return json.loads(finished.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise TestbedError(f"the load test ended with exit code {finished.exit_code} and no result") from None


def _wish(testbed: Testbed, image: str, command: tuple[str, ...]) -> ContainerWish:
    plan = testbed.plan
    name = "load"
    return ContainerWish(
        name=naming.full_name(plan.testbed, name),
        hostname=name,
        image=image,
        labels=naming.labels(plan.testbed, Kind.LOAD, name, ""),
        networks=tuple(
            Attachment(network.name, IPv4Address(int(network.subnet.network_address) + HOST_NUMBER))
            for network in plan.networks
            if network.kind == Kind.SITE
        ),
        files=_files(testbed),
        extra_hosts={access.node: plan.hosts[access.node] for access in plan.access},
        command=command,
    )


def _files(testbed: Testbed) -> tuple[ReadyFile, ...]:
    plan, pki = testbed.plan, testbed.pki
    settings = {
        "saes": [
            {"sae": sae.sae, "node": sae.node, "url": f"https://{sae.node}:8443", "domain": sae.region}
            for sae in plan.saes
        ],
        "pairs": all_pairs(plan),
    }
    files = [ReadyFile(f"{FOLDER}/settings.json", json.dumps(settings).encode())]
    for region in dict.fromkeys(sae.region for sae in plan.saes):
        files.append(ReadyFile(f"{FOLDER}/identity/domains/{region}.crt", pki.authority(region)))
    for sae in plan.saes:
        path = f"{FOLDER}/identity/{sae.sae}"
        files.append(ReadyFile(f"{path}.crt", pki.certificate(sae.region, "sae", sae.sae)))
        files.append(ReadyFile(f"{path}.key", pki.key(sae.region, "sae", sae.sae), 0o400, APPLICATION_UID))
    return tuple(files)
