"""Two key management entities in two domains that share their keys by magic, and cheat in one chosen way.

They speak just enough of ETSI GS QKD 014 over mutual TLS for a load test, remember every key they gave out, and serve
each key to the slave once. Black box to the load test: it reaches them over TLS only.
"""

import base64
import json
import secrets
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from node.identity_uri import Role
from tests.certificates import issue, make_authority, write_identity

NODES = {"kmstn1": "east", "kmstn2": "west"}
SAES = {"encryptor-1": "kmstn1", "encryptor-2": "kmstn2"}


class Fault(Enum):
    """How the pair misbehaves."""

    NONE = "none"
    CORRUPTS_A_KEY = "the slave's copy of the first key has one bit flipped"
    LOSES_A_KEY = "the first key is not found when the slave asks"
    LEAVES_A_KEY_OUT = "the first answer to the slave lacks one of its keys"
    HAS_NO_KEYS = "every request for new keys is answered 503"
    ECHOES_KEYS_IN_NONSENSE = "answers hold the keys, in a form that is no key container"


class FakeKmePair:
    """State that both servers share; `given` are the keys as they stood on the wire, in base64."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.given: list[str] = []
        self.enc_keys_calls = 0
        self.connections: set[Any] = set()
        self.fetched = threading.Event()
        self._kept: dict[str, tuple[str, str, str]] = {}
        self._lock = threading.Lock()

    def answer(self, caller: str, peer: str, method: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body for a call; `caller` is the common name in the client's certificate."""
        with self._lock:
            if method == "enc_keys":
                return self._enc_keys(caller, peer, body)
            return self._dec_keys(caller, peer, [entry["key_ID"] for entry in body["key_IDs"]])

    def _enc_keys(self, master: str, slave: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.enc_keys_calls += 1
        if self.fault is Fault.HAS_NO_KEYS:
            return 503, {"message": "not enough key material"}
        keys = []
        for _ in range(body.get("number", 1)):
            key_id, key = str(uuid.uuid4()), base64.b64encode(secrets.token_bytes(body.get("size", 256) // 8)).decode()
            self._kept[key_id] = (master, slave, key)
            self.given.append(key)
            keys.append({"key_ID": key_id, "key": key})
        if self.fault is Fault.ECHOES_KEYS_IN_NONSENSE:
            return 200, {"keys": [[key["key_ID"], key["key"]] for key in keys]}
        return 200, {"keys": keys}

    def _dec_keys(self, slave: str, master: str, key_ids: list[str]) -> tuple[int, dict[str, Any]]:
        first = not self.fetched.is_set()
        self.fetched.set()
        kept = [self._kept.pop(key_id, None) for key_id in key_ids]
        if (first and self.fault is Fault.LOSES_A_KEY) or any(k is None or k[:2] != (master, slave) for k in kept):
            return 400, {"message": "one or more keys specified are not found on KME"}
        keys = [{"key_ID": i, "key": k[2]} for i, k in zip(key_ids, kept, strict=True) if k is not None]
        if first and self.fault is Fault.CORRUPTS_A_KEY:
            value = bytearray(base64.b64decode(keys[0]["key"]))
            value[-1] ^= 1
            keys[0]["key"] = base64.b64encode(value).decode()
            self.given.append(keys[0]["key"])
        if first and self.fault is Fault.LEAVES_A_KEY_OUT:
            del keys[0]
        return 200, {"keys": keys}


@contextmanager
def running(folder: Path, fault: Fault, *, mixed_up_domains: bool = False) -> Iterator[tuple[FakeKmePair, Path, Path]]:
    """Serve until the block ends; yields the pair, the load test's settings file and its identity folder.

    `mixed_up_domains` gives each node a certificate of the other's domain.
    """
    pair = FakeKmePair(fault)
    authorities = {domain: make_authority(domain) for domain in NODES.values()}
    servers, urls = [], {}
    for node, domain in NODES.items():
        issuer = next(d for d in authorities if d != domain) if mixed_up_domains else domain
        identity = write_identity(
            folder / node, issue(authorities[issuer], Role.NODE, node, dns=[node]), authorities.values()
        )
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(pair))
        server.socket = _context(identity, domain).wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        urls[node] = f"https://127.0.0.1:{server.server_port}"
    for sae, node in SAES.items():
        domain = NODES[node]
        leaf = write_identity(folder / sae, issue(authorities[domain], Role.SAE, sae), authorities.values())
        _put_load_identity(folder / "identity", leaf, sae)
    settings = folder / "settings.json"
    saes = [{"sae": sae, "node": node, "url": urls[node], "domain": NODES[node]} for sae, node in SAES.items()]
    settings.write_text(json.dumps({"saes": saes, "pairs": [list(SAES), list(SAES)[::-1]]}))
    try:
        yield pair, settings, folder / "identity"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _put_load_identity(identity: Path, leaf: Path, sae: str) -> None:
    (identity / "domains").mkdir(parents=True, exist_ok=True)
    (leaf / "tls.crt").rename(identity / f"{sae}.crt")
    (leaf / "tls.key").rename(identity / f"{sae}.key")
    for authority in (leaf / "domains").iterdir():
        authority.rename(identity / "domains" / authority.name)


def _context(identity: Path, domain: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
    context.load_verify_locations(identity / "domains" / f"{domain}.crt")
    return context


def _handler(pair: FakeKmePair) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send(404, {"message": "this KME has no status"})

        def do_POST(self) -> None:
            pair.connections.add(self.client_address)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            peer, method = self.path.removeprefix("/api/v1/keys/").split("/")
            certificate = self.connection.getpeercert()
            caller = {name: value for ((name, value),) in certificate["subject"]}["commonName"]
            self._send(*pair.answer(caller, unquote(peer), method, body))

        def _send(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    return Handler
