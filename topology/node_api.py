"""What the host asks of nodes, through the access ports: the operator API as operator, ETSI 014 as an SAE.

Mutual TLS with the testbed's own certificates; a node is verified with the CA of its own region and no other.
"""

import ssl
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from topology.errors import ApiRefused, UnknownName
from topology.pki import Pki
from topology.plan import CertificateRole, NodeAccess, Plan, SaePlan
from topology.planner import OPERATOR

TIMEOUT_S = 20.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class IssuedKey:
    """A key that an SAE got; the value stays out of every repr."""

    key_id: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class IssuedKeys:
    """The keys of one answer, and how long the node says it took over them, in ms (None if it does not say)."""

    keys: tuple[IssuedKey, ...]
    server_ms: float | None


class NodeApis:
    """Clients for every node of one testbed, made when first used; `close` ends their connections."""

    def __init__(self, plan: Plan, pki: Pki) -> None:
        self._plan = plan
        self._pki = pki
        self._access = {access.node: access for access in plan.access}
        self._saes = {sae.sae: sae for sae in plan.saes}
        self._clients: dict[tuple[str, str], httpx.Client] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()

    def sae(self, name: str) -> SaePlan:
        """Look up an SAE; raises UnknownName."""
        try:
            return self._saes[name]
        except KeyError:
            raise UnknownName("SAE", name, self._saes) from None

    def access(self, node: str) -> NodeAccess:
        """Look up where a node's APIs come out on this host; raises UnknownName."""
        try:
            return self._access[node]
        except KeyError:
            raise UnknownName("node", node, self._access) from None

    def sae_url(self, node: str) -> str:
        """The base URL of a node's ETSI 014 API on this host."""
        return f"https://{HOST}:{self.access(node).sae_host_port}"

    def health(self, node: str) -> dict[str, Any]:
        """Ask a node whether it is healthy; raises httpx.HTTPError when it does not answer."""
        return self._operator(node, "/health")

    def status(self, node: str) -> dict[str, Any]:
        """Ask a node for its whole status; raises httpx.HTTPError when it does not answer."""
        return self._operator(node, "/status")

    def provenance(self, node: str, key_id: str) -> dict[str, Any]:
        """Ask a node which way a key took; raises ApiRefused for a key it does not know."""
        return self._operator(node, f"/keys/{key_id}")

    def enc_keys(self, master: str, slave: str, number: int, size_bits: int | None) -> IssuedKeys:
        """Ask for keys as the master SAE; raises ApiRefused, httpx.HTTPError."""
        request = {"number": number, **({} if size_bits is None else {"size": size_bits})}
        return self._keys(master, f"/api/v1/keys/{quote(slave, safe='')}/enc_keys", request)

    def dec_keys(self, slave: str, master: str, key_ids: tuple[str, ...]) -> IssuedKeys:
        """Fetch keys by ID as the slave SAE; raises ApiRefused, httpx.HTTPError."""
        request = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        return self._keys(slave, f"/api/v1/keys/{quote(master, safe='')}/dec_keys", request)

    def _keys(self, caller: str, path: str, request: Mapping[str, Any]) -> IssuedKeys:
        sae = self.sae(caller)
        answer = self._client(sae.region, "sae", caller, self.sae_url(sae.node)).post(path, json=request)
        body = _checked(f"{caller} at {sae.node}", answer)
        try:
            keys = tuple(IssuedKey(key["key_ID"], key["key"]) for key in body["keys"])
        except (KeyError, TypeError) as error:
            raise ApiRefused(f"{caller} at {sae.node}", 200, f"no key container: {error!r}") from None
        return IssuedKeys(keys, _server_ms(answer))

    def _operator(self, node: str, path: str) -> dict[str, Any]:
        access = self.access(node)
        base_url = f"https://{HOST}:{access.operator_host_port}"
        client = self._client(access.region, "operator", OPERATOR, base_url, node)
        # The nodes' operator APIs share a port: the name in the TLS hello says which is meant, and is what is verified.
        return _checked(node, client.get(path, extensions={"sni_hostname": node}))

    def _client(self, region: str, role: CertificateRole, name: str, base_url: str, node: str = "") -> httpx.Client:
        key = (f"{region}/{role}/{name}", f"{base_url} {node}")
        with self._lock:
            if key not in self._clients:
                context = self._context(region, role, name)
                self._clients[key] = httpx.Client(verify=context, base_url=base_url, timeout=TIMEOUT_S, trust_env=False)
            return self._clients[key]

    def _context(self, region: str, role: CertificateRole, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self._pki.authority(region).decode())
        # Python's ssl reads certificates from files only; this one goes with the block.
        with tempfile.TemporaryDirectory() as folder:
            both = Path(folder) / "identity.pem"
            both.touch(mode=0o600)
            both.write_bytes(self._pki.certificate(region, role, name) + self._pki.key(region, role, name))
            context.load_cert_chain(both)
        return context


def _server_ms(answer: httpx.Response) -> float | None:
    """Read the duration out of `Server-Timing: total;dur=12.34`."""
    _, found, duration = answer.headers.get("server-timing", "").partition("dur=")
    return float(duration) if found else None


def _checked(who: str, answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.status_code != httpx.codes.OK or not isinstance(body, dict):
        message = body.get("message", answer.text[:200]) if isinstance(body, dict) else answer.text[:200]
        raise ApiRefused(who, answer.status_code, str(message))
    return body
