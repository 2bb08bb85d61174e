"""Some fifty kinds of wrong certificate against each API: none gets in, and the log names what was wrong."""

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import serve
from node.mutual_tls.contexts import client_context, server_context
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from node.mutual_tls.tls_groups import restrict_groups
from tests.certificates import issue, make_authority, revocation_list, write_identity
from tests.hostile.hostile_federation import APIS, HOLDERS, PATHS, PEER_API, SAE_API, HostileFederation
from tests.hostile.raw_http import ClosedError, RawConnection, RawRequest
from tests.hostile.wrong_certificates import CASES, DAY, EXCLUDED, MISPLACED, NOW, Case, Presented, Wanted, make
from tests.integration.node.small_federation import GROUPS

pytestmark = pytest.mark.asyncio(loop_scope="module")

ON_EVERY_API = pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())


class _StrictHome(HostileFederation):
    """Its CA of "east" may not issue for some names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.authorities["east"] = make_authority("east", excluded_dns=[EXCLUDED])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HostileFederation]:
    """A federation whose CA is under constraints."""
    strict = _StrictHome(tmp_path_factory.mktemp("certificates"))
    async with strict:
        yield strict


def lax_context(federation: HostileFederation, api: int, presented: Presented | None, folder: Path) -> ssl.SSLContext:
    """Make a client that would present anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(federation.identity("east", Role.NODE, "n1") / "domains/east.crt")
    context.set_ciphers("ALL:@SECLEVEL=0")
    if api == PEER_API:
        restrict_groups(context, GROUPS)
    if presented is not None:
        context.load_cert_chain(*presented.write(folder))
    return context


async def status_for(federation: HostileFederation, api: int, context: ssl.SSLContext) -> int | None:
    """Return what an API answers, None if the connection does not come about."""
    try:
        async with await RawConnection.open(federation.ports["n1"][api], context) as connection:
            await connection.send(RawRequest("GET", PATHS[api]).encode())
            return (await connection.answer()).status
    except (ssl.SSLError, ConnectionError, ClosedError):
        return None


async def refusal(
    federation: HostileFederation, api: int, context: ssl.SSLContext, log: pytest.LogCaptureFixture
) -> str:
    """Try, be refused, and return what was logged about it."""
    log.clear()
    with log.at_level(logging.INFO, "kmstn"):
        assert await status_for(federation, api, context) in (None, 401)
        await asyncio.sleep(0.01)
    return "\n".join(r.getMessage() for r in log.records if r.name in ("kmstn.tls", "kmstn.access", "kmstn.peer_api"))


def right(federation: HostileFederation, api: int) -> Wanted:
    role, name = HOLDERS[api]
    return Wanted(federation.authorities["east"], role, name)


@ON_EVERY_API
async def test_good_certificate_gets_in(federation: HostileFederation, api: int, tmp_path: Path) -> None:
    context = lax_context(federation, api, Presented(make(right(federation, api))), tmp_path)
    assert await status_for(federation, api, context) == 200


@ON_EVERY_API
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_wrong_certificate_is_refused_and_the_reason_named(
    federation: HostileFederation, api: int, case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    presented = case.make(right(federation, api), federation.authorities)
    said = await refusal(federation, api, lax_context(federation, api, presented, tmp_path), caplog)
    assert any(words in said for words in case.says), said[:500]
    assert len(said) < 1000


@pytest.mark.parametrize(("api", "role", "name", "says"), MISPLACED)
async def test_good_certificate_at_the_wrong_api_is_refused(
    federation: HostileFederation,
    api: str,
    role: Role,
    name: str,
    says: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stolen = Presented(make(replace(right(federation, APIS[api]), role=role, name=name)))
    assert says in await refusal(federation, APIS[api], lax_context(federation, APIS[api], stolen, tmp_path), caplog)


# The handshake itself.


def _without_certificate(_context: ssl.SSLContext) -> None:
    return None


def _tls_1_1(context: ssl.SSLContext) -> None:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


def _tls_1_2(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def _other_group(context: ssl.SSLContext) -> None:
    restrict_groups(context, "X448")


HANDSHAKES: list[tuple[str, bool, Callable[[ssl.SSLContext], None], str]] = [
    ("SAE", False, _without_certificate, "no certificate"),
    ("peer", False, _without_certificate, "no certificate"),
    ("operator", False, _without_certificate, "no certificate"),
    ("SAE", True, _tls_1_1, "unsupported protocol"),
    ("peer", True, _tls_1_1, "unsupported protocol"),
    ("operator", True, _tls_1_1, "unsupported protocol"),
    ("peer", True, _tls_1_2, "unsupported protocol"),
    ("peer", True, _other_group, "no suitable"),
]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize(("api", "known", "change", "says"), HANDSHAKES)
async def test_handshake_that_offers_too_little_is_refused(
    federation: HostileFederation,
    api: str,
    known: bool,
    change: Callable[[ssl.SSLContext], None],
    says: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    presented = Presented(make(right(federation, APIS[api]))) if known else None
    context = lax_context(federation, APIS[api], presented, tmp_path)
    change(context)
    assert says in await refusal(federation, APIS[api], context, caplog)


async def test_certificate_of_an_expired_ca_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = make_authority("home")
    old = make_authority("old", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    identity = write_identity(tmp_path / "server", issue(home, Role.NODE, "n1"), [home, old])
    server = await serve(_nothing, server_context(identity, ["home", "old"], peer_plane=False), "127.0.0.1", 0)
    leaf = issue(old, Role.SAE, "a1", not_before=NOW - 9 * DAY)
    client = client_context(write_identity(tmp_path / "client", leaf, [home]), ["home"], peer_plane=False)
    with caplog.at_level(logging.WARNING, "kmstn.tls"), pytest.raises((ssl.SSLError, ConnectionError)):
        async with await RawConnection.open(server.port, client) as connection:
            await connection.answer()
    assert "refused a TLS handshake: expired" in caplog.text
    await server.stop()


async def _nothing(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError("nobody gets here")


async def test_key_of_another_certificate_is_no_identity(tmp_path: Path) -> None:
    home = make_authority("home")
    identity = write_identity(tmp_path, issue(home, Role.NODE, "n1"), [home])
    other = write_identity(tmp_path / "other", issue(home, Role.NODE, "n1"), [home])
    (identity / "tls.key").write_bytes((other / "tls.key").read_bytes())
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        server_context(identity, ["home"], peer_plane=True, groups=GROUPS)


# Revocation.


@ON_EVERY_API
async def test_revoked_certificate_is_refused_on_the_connection_that_is_open(
    federation: HostileFederation, api: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaf = make(right(federation, api))
    context = lax_context(federation, api, Presented(leaf), tmp_path)
    path = federation.identity("east", Role.NODE, "n1") / "domains/east.crl"
    request = RawRequest("GET", PATHS[api]).encode()
    async with await RawConnection.open(federation.ports["n1"][api], context) as connection:
        await connection.send(request)
        assert (await connection.answer()).status == 200
        path.write_bytes(revocation_list(federation.authorities["east"], [leaf]))
        await asyncio.sleep(1.1)
        await connection.send(request)
        assert (await connection.answer()).status == 401
        assert "certificate was revoked" in await refusal(federation, api, context, caplog)
        path.unlink()
        await asyncio.sleep(1.1)
        await connection.send(request)
        assert (await connection.answer()).status == 200


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
async def test_revocation_list_that_is_none_opens_nothing(
    federation: HostileFederation, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = federation.identity("east", Role.NODE, "n1") / "domains/east.crl"
    path.write_bytes(content or revocation_list(make_authority("east"), []))
    await asyncio.sleep(1.1)
    try:
        answer = await federation.sae("a1").get(PATHS[SAE_API])
        assert answer.status_code in (200, 401)
        assert "cannot be used" in caplog.text
    finally:
        path.unlink()
        await asyncio.sleep(1.1)
    assert (await federation.sae("a1").get(PATHS[SAE_API])).status_code == 200


# What a neighbour passes on in adverts meets no TLS before.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": ec.generate_private_key(ec.SECP224R1())}, "too weak"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "too weak"),
        ({"key": dsa.generate_private_key(2048)}, "not accepted"),
        ({"algorithm": hashes.SHA224()}, "weak hash"),
        ({"usages": None}, "not meant for clients"),
        ({"authority": True}, "identifies nobody"),
    ],
)
async def test_certificate_that_tls_would_refuse_is_refused_without_it(
    federation: HostileFederation, changes: dict[str, Any], says: str
) -> None:
    anchors = TrustAnchors({"east": federation.authorities["east"].certificate})
    with pytest.raises(CertificateRefusedError, match=says):
        anchors.identify(make(replace(right(federation, SAE_API), **changes)).der, NOW)


async def test_certificate_with_any_byte_changed_is_refused_and_never_more(federation: HostileFederation) -> None:
    anchors = TrustAnchors({"east": federation.authorities["east"].certificate})
    der, generator = make(right(federation, SAE_API)).der, random.Random(4)
    assert str(anchors.identify(der, NOW)) == "sae a1 of east"
    for _ in range(5000):
        changed = bytearray(der)
        for _ in range(generator.choice((1, 1, 2, 8))):
            changed[generator.randrange(len(der))] ^= generator.randrange(1, 256)
        cut = generator.randrange(len(der)) if generator.random() < 0.1 else len(der)
        with pytest.raises(CertificateRefusedError) as refused:
            anchors.identify(bytes(changed[:cut]), NOW)
        assert len(refused.value.reason) <= 300
