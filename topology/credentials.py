"""Handing an SAE's credentials to its owner, and joining somebody's own container to a site."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from topology.errors import TestbedError, UnknownName
from topology.naming import Kind
from topology.testbed import Testbed


@dataclass(frozen=True)
class Credentials:
    """Where an SAE's files were written, and a command that uses them."""

    sae: str
    node: str
    sae_api: str
    certificate: Path
    key: Path
    authority: Path
    curl: str


def write_credentials(testbed: Testbed, sae: str, out: Path) -> Credentials:
    """Write certificate, key (readable by the owner only) and CA of an SAE into a folder."""
    apis = testbed.apis()
    where = apis.sae(sae)
    url = apis.sae_url(where.node)
    apis.close()
    files = Credentials(
        sae, where.node, url, out / f"{sae}.crt", out / f"{sae}.key", out / f"ca-{where.region}.crt", curl=""
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.certificate.write_bytes(testbed.pki.certificate(where.region, "sae", sae))
        files.authority.write_bytes(testbed.pki.authority(where.region))
        files.key.unlink(missing_ok=True)
        files.key.touch(mode=0o600)
        files.key.write_bytes(testbed.pki.key(where.region, "sae", sae))
    except OSError as error:
        raise TestbedError(f"cannot write the credentials into {out}: {error.strerror}") from error
    others = [one.sae for one in testbed.plan.saes if one.sae != sae]
    request = f"{url}/api/v1/keys/{quote(others[0] if others else sae, safe='')}/status"
    arguments = ["curl", "--cacert", files.authority, "--cert", files.certificate, "--key", files.key, request]
    return Credentials(**{**vars(files), "curl": shlex.join(map(str, arguments))})


def attach(testbed: Testbed, container: str, site: str) -> dict[str, str]:
    """Join a container to the network of a site; returns its address there and the URL of the site's node."""
    sites = {network.plain_name: network for network in testbed.plan.networks if network.kind == Kind.SITE}
    by_site = {sae.site: sae.node for sae in testbed.plan.saes}
    names = {name.removeprefix("site-"): network for name, network in sites.items()}
    network = names.get(site) or sites.get(site)
    if network is None:
        raise UnknownName("site", site, names)
    address = testbed.engine.attach(container, network.name)
    node = by_site.get(site) or _node_on(testbed, network.name)
    return {"container": container, "site": site, "address": address, "sae_api": f"https://{node}:8443"}


def _node_on(testbed: Testbed, network: str) -> str:
    for container in testbed.plan.containers:
        if container.kind == Kind.NODE and any(leg.network == network for leg in container.networks):
            return container.plain_name
    raise TestbedError(f"there is no node on {network}")
