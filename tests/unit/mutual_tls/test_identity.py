"""Which certificates identify somebody, and the attacks that must not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.identity_uri import Role, certificate_uri, parse_certificate_uri
from node.mutual_tls.identity import CertificateRefusedError, Identity, TrustAnchors
from tests.certificates import Credential, issue, make_authority, write_identity

NOW = datetime.now(UTC)
GALICIA = make_authority("galicia-north")
EUSKADI = make_authority("euskadi")
ANCHORS = TrustAnchors({"galicia-north": GALICIA.certificate, "euskadi": EUSKADI.certificate})


def refusal(leaf: Credential, now: datetime = NOW) -> str:
    with pytest.raises(CertificateRefusedError) as refused:
        ANCHORS.identify(leaf.der, now)
    return refused.value.reason


def test_certificate_says_domain_role_and_id() -> None:
    leaf = issue(EUSKADI, "sae", "sae/bilbao:1 é")
    assert ANCHORS.identify(leaf.der, NOW) == Identity("euskadi", Role.SAE, "sae/bilbao:1 é")


def test_ca_of_one_domain_cannot_speak_for_another() -> None:
    forged = issue(GALICIA, "node", "kmstn5", uris=["urn:kmstn:euskadi:node:kmstn5"])
    assert "not issued by the CA of euskadi" in refusal(forged)


def test_ca_with_the_name_of_another_cannot_speak_for_it() -> None:
    namesake = make_authority("euskadi")
    assert "not issued by the CA of euskadi" in refusal(issue(namesake, "node", "kmstn5"))


def test_certificate_of_an_untrusted_domain_is_refused() -> None:
    assert "not trusted here" in refusal(issue(make_authority("elsewhere"), "node", "kmstn9"))


def test_leaf_that_a_leaf_issued_is_refused() -> None:
    leaf = issue(EUSKADI, "node", "kmstn5")
    assert "not issued by the CA" in refusal(issue(leaf, "operator", "somebody"))


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["urn:other:euskadi:sae:x"],
        ["urn:kmstn:euskadi:sae:one", "urn:kmstn:euskadi:sae:two"],
        ["urn:kmstn:euskadi:king:x"],
        ["urn:kmstn:euskadi:sae:"],
        ["urn:kmstn:euskadi:sae:a:b"],
        ["urn:kmstn:euskadi:sae:%61"],
        ["urn:kmstn::sae:a"],
        ["urn:kmstn:euskadi:sae:one", "spiffe://euskadi/one"],
        ["urn:kmstn:euskadi:sae:one%0Atwo"],
        ["urn:kmstn:euskadi:sae:" + 256 * "x"],
    ],
)
def test_certificate_without_one_well_formed_uri_is_refused(uris: list[str]) -> None:
    refusal(issue(EUSKADI, "node", "x", uris=uris))


def test_certificate_for_servers_only_identifies_nobody() -> None:
    assert "not meant for clients" in refusal(issue(EUSKADI, "device", "d"))


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(CertificateRefusedError, match="unreadable"):
        ANCHORS.identify(b"\x30\x03abc", NOW)


def test_certificate_expires_although_it_was_accepted_before() -> None:
    leaf = issue(EUSKADI, "sae", "sae-1", not_after=NOW + timedelta(hours=1))
    ANCHORS.identify(leaf.der, NOW)
    assert "expired" in refusal(leaf, NOW + timedelta(hours=2))


def test_certificate_of_the_future_is_refused() -> None:
    leaf = issue(EUSKADI, "sae", "sae-1", not_before=NOW + timedelta(hours=1))
    assert "valid from" in refusal(leaf)


def test_certificate_does_not_outlive_its_ca() -> None:
    leaf = issue(EUSKADI, "sae", "sae-1", not_after=NOW + timedelta(days=400))
    assert "expired" in refusal(leaf, NOW + timedelta(days=100))


def test_only_the_named_domains_are_loaded(tmp_path: Path) -> None:
    identity = write_identity(tmp_path, issue(EUSKADI, "node", "kmstn5"), [EUSKADI, GALICIA])
    assert TrustAnchors.load(identity / "domains").domains == {"euskadi", "galicia-north"}
    assert TrustAnchors.load(identity / "domains", ["euskadi"]).domains == {"euskadi"}


@pytest.mark.parametrize("name", ["kmstn1", "a:b/c?d#e[f]@!$&'()*+,;=%25", "~._-", "ñ"])
def test_uri_of_any_id_reads_back(name: str) -> None:
    assert parse_certificate_uri(certificate_uri("euskadi", Role.SAE, name)) == ("euskadi", Role.SAE, name)


@pytest.mark.parametrize("domain", ["", "a:b", "-a", "a b"])
def test_domain_that_would_break_the_uri_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        certificate_uri(domain, Role.NODE, "x")
