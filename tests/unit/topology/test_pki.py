"""The PKI: idempotent, heals what is damaged, renews in time, and what it issues the nodes believe."""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from node.identity_uri import Role
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from topology.load import parse_description
from topology.pki import Pki, ensure_pki, ensure_seed, resolve
from topology.plan import AuthorityRef, CertificateRef, Plan, SeedRef
from topology.planner import make_plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AWKWARD = "../sae/Aé?#".replace("é", "%")
DESCRIPTION = f"""\
testbed: trial
regions:
  north: {{sites: {{alpha: {{node: n1, saes: ["{AWKWARD}", "..", "sae-a", "sae-A"]}}}}}}
  south: {{sites: {{beta: {{node: n2, saes: [sae-2]}}}}}}
wan_links: [{{between: [n1, n2], delay: 1 ms}}]
"""


def plan_named(name: str) -> Plan:
    return make_plan(parse_description(DESCRIPTION, "d.yaml"), name, IPv4Network("10.1.0.0/16"), 0.0)


PLAN = plan_named("trial")
EVERYTHING = tuple((c.domain, c.role, c.name) for c in PLAN.certificates)


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def anchors(pki: Pki) -> TrustAnchors:
    domains = ("north", "south")
    return TrustAnchors({domain: x509.load_pem_x509_certificate(pki.authority(domain)) for domain in domains})


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    assert ensure_pki(tmp_path, PLAN, NOW).issued == EVERYTHING
    before = snapshot(tmp_path)
    assert ensure_pki(tmp_path, PLAN, NOW + timedelta(days=59)).issued == ()
    assert snapshot(tmp_path) == before


def test_the_nodes_believe_what_is_issued(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path, PLAN, NOW)
    for domain, role, name in EVERYTHING:
        identity = anchors(pki).identify(der(pki.certificate(domain, role, name)), NOW)
        assert (identity.domain, identity.role, identity.name) == (domain, Role(role), name)
        key = load_pem_private_key(pki.key(domain, role, name), None)
        assert key.public_key() == x509.load_pem_x509_certificate(pki.certificate(domain, role, name)).public_key()


def test_a_certificate_ends_after_ninety_days(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path, PLAN, NOW)
    with pytest.raises(CertificateRefusedError):
        anchors(pki).identify(der(pki.certificate("north", "node", "n1")), NOW + timedelta(days=91))


def test_a_node_certificate_carries_its_names(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(ensure_pki(tmp_path, PLAN, NOW).certificate("north", "node", "n1"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1", "trial-n1", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_an_authority_can_issue_leaves_only(tmp_path: Path) -> None:
    authority = x509.load_pem_x509_certificate(ensure_pki(tmp_path, PLAN, NOW).authority("north"))
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_certificates_are_renewed_in_their_last_third(tmp_path: Path) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    authority = (tmp_path / "north" / "ca.crt").read_bytes()
    assert ensure_pki(tmp_path, PLAN, NOW + timedelta(days=61)).issued == EVERYTHING
    assert (tmp_path / "north" / "ca.crt").read_bytes() == authority


def test_an_authority_close_to_its_end_is_replaced_with_all_it_issued(tmp_path: Path) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    late = NOW + timedelta(days=3600)
    pki = ensure_pki(tmp_path, PLAN, late)
    assert pki.issued == EVERYTHING
    anchors(pki).identify(der(pki.certificate("north", "node", "n1")), late)


def test_another_name_of_the_testbed_renews_what_carries_it(tmp_path: Path) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    assert ensure_pki(tmp_path, plan_named("other"), NOW).issued == (("north", "node", "n1"), ("south", "node", "n2"))


@pytest.mark.parametrize("suffix", ["crt", "key"])
@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_damaged_file_is_healed(tmp_path: Path, suffix: str, damage: bytes) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    (tmp_path / "south" / "node" / f"n2.{suffix}").write_bytes(damage)
    assert ensure_pki(tmp_path, PLAN, NOW).issued == (("south", "node", "n2"),)


def test_a_key_that_is_not_the_certificates_is_replaced(tmp_path: Path) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    other = (tmp_path / "north" / "node" / "n1.key").read_bytes()
    (tmp_path / "south" / "node" / "n2.key").write_bytes(other)
    assert ensure_pki(tmp_path, PLAN, NOW).issued == (("south", "node", "n2"),)


def test_a_lost_authority_replaces_its_domain_and_leaves_the_other(tmp_path: Path) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    (tmp_path / "south" / "ca.key").unlink()
    assert {domain for domain, _, _ in ensure_pki(tmp_path, PLAN, NOW).issued} == {"south"}


def test_a_certificate_of_another_domains_authority_is_not_kept(tmp_path: Path) -> None:
    ensure_pki(tmp_path, PLAN, NOW)
    for suffix in ("crt", "key"):
        (tmp_path / "south" / f"ca.{suffix}").unlink()
        os.link(tmp_path / "north" / f"ca.{suffix}", tmp_path / "south" / f"ca.{suffix}")
    pki = ensure_pki(tmp_path, PLAN, NOW)
    assert {domain for domain, _, _ in pki.issued} == {"south"}
    assert pki.authority("south") != pki.authority("north")


def test_nobody_else_can_read_anything_and_no_draft_stays(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    ensure_pki(folder, PLAN, NOW)
    ensure_seed(folder, "n1-n2")
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        assert not path.name.endswith(".draft")


def test_no_id_leads_out_of_its_folder_or_into_anothers_file(tmp_path: Path) -> None:
    ensure_pki(tmp_path / "pki", PLAN, NOW)
    files = sorted((tmp_path / "pki" / "north" / "sae").iterdir())
    assert len({path.name.lower() for path in files}) == 2 * 4
    assert [path.name for path in tmp_path.iterdir()] == ["pki"]


def test_the_keys_of_an_authority_are_in_no_planned_file(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path, PLAN, NOW)
    authority_keys = {(tmp_path / domain / "ca.key").read_bytes() for domain in ("north", "south")}
    contents = [resolve(file.content, pki) for container in PLAN.containers for file in container.files]
    assert not authority_keys & set(contents)
    assert pki.authority("south") in contents


def test_references_become_the_files_they_name(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path, PLAN, NOW)
    assert resolve(b"text", pki) == b"text"
    assert resolve(AuthorityRef("north"), pki) == pki.authority("north")
    assert resolve(CertificateRef("north", "node", "n1", "certificate"), pki) == pki.certificate("north", "node", "n1")
    assert resolve(CertificateRef("north", "node", "n1", "key"), pki) == pki.key("north", "node", "n1")
    assert resolve(SeedRef("n1-n2"), pki) == ensure_seed(tmp_path, "n1-n2")


def test_a_seed_is_random_once_and_the_same_ever_after(tmp_path: Path) -> None:
    seed = ensure_seed(tmp_path, "n1-n2")
    assert len(seed) == 32
    assert ensure_seed(tmp_path, "n1-n2") == seed
    assert ensure_seed(tmp_path, "n2-n3") != seed


def test_a_seed_cut_short_is_made_anew(tmp_path: Path) -> None:
    ensure_seed(tmp_path, "n1-n2")
    (tmp_path / "fibres" / "n1-n2.seed").write_bytes(b"short")
    assert len(ensure_seed(tmp_path, "n1-n2")) == 32
