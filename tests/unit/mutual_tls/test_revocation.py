"""Which certificates a CA has taken back, as the files in the folder of CAs change."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from tests.certificates import Credential, issue, make_authority, revocation_list, write_identity

NOW = datetime.now(UTC)
LATER = NOW + timedelta(seconds=2)
HOME, PARTNER = make_authority("home"), make_authority("partner")
LEAF, OTHER = issue(HOME, "sae", "x"), issue(HOME, "sae", "x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_identity(tmp_path, issue(HOME, "node", "n"), [HOME, PARTNER]) / "domains"


def refused(anchors: TrustAnchors, leaf: Credential, now: datetime = NOW) -> str:
    try:
        anchors.identify(leaf.der, now)
    except CertificateRefusedError as error:
        return error.reason
    return ""


def test_revoked_certificate_is_refused_and_its_successor_is_not(folder: Path) -> None:
    (folder / "home.crl").write_bytes(revocation_list(HOME, [LEAF]))
    anchors = TrustAnchors.load(folder)
    assert "certificate was revoked" in refused(anchors, LEAF)
    assert not refused(anchors, OTHER)


def test_list_is_read_anew_when_it_changes(folder: Path) -> None:
    anchors = TrustAnchors.load(folder)
    assert not refused(anchors, LEAF)
    (folder / "home.crl").write_bytes(revocation_list(HOME, [LEAF, OTHER]))
    assert not refused(anchors, LEAF)
    assert "revoked" in refused(anchors, LEAF, LATER)
    (folder / "home.crl").unlink()
    assert not refused(anchors, LEAF, LATER + timedelta(seconds=2))


@pytest.mark.parametrize("content", [b"", b"nonsense", revocation_list(make_authority("home"), [])])
def test_list_that_the_ca_did_not_sign_opens_nothing(folder: Path, content: bytes) -> None:
    (folder / "home.crl").write_bytes(content)
    anchors = TrustAnchors.load(folder)
    assert "the revocation list of home cannot be used" in refused(anchors, LEAF)
    assert not refused(anchors, issue(PARTNER, "sae", "x"))


def test_damaged_list_leaves_the_last_good_one_in_force(folder: Path) -> None:
    (folder / "home.crl").write_bytes(revocation_list(HOME, [LEAF]))
    anchors = TrustAnchors.load(folder)
    assert "revoked" in refused(anchors, LEAF)
    (folder / "home.crl").write_bytes(b"nonsense, and of another length")
    assert "revoked" in refused(anchors, LEAF, LATER)
    assert not refused(anchors, OTHER, LATER)


def test_ca_cannot_revoke_what_another_issued(folder: Path) -> None:
    (folder / "partner.crl").write_bytes(revocation_list(PARTNER, [LEAF]))
    assert not refused(TrustAnchors.load(folder), LEAF)
