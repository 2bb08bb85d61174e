"""What `doctor` says of the certificates of testbeds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.certificates import Credential, issue, make_authority, write_identity
from topology.certificate_check import problems_of
from topology.doctor import certificates

NOW = datetime.now(UTC)
HOME = make_authority("home")


def keep(folder: Path, name: str, credential: Credential) -> None:
    """Put a certificate where a testbed keeps it."""
    path = folder / "home" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    written = write_identity(folder / "draft", credential, [])
    (written / "tls.crt").rename(path)
    (written / "tls.key").rename(path.with_suffix(".key"))


def a_testbed_with(root: Path, **leaves: Credential) -> Path:
    folder = root / "try" / "pki"
    keep(folder, "ca.crt", HOME)
    for name, leaf in leaves.items():
        keep(folder, f"{name.replace('_', '/')}.crt", leaf)
    return folder


def test_good_certificates_are_counted(tmp_path: Path) -> None:
    leaves = {f"{role}_x": issue(HOME, role, "x") for role in ("node", "device", "sae", "operator")}
    assert problems_of(a_testbed_with(tmp_path, **leaves), NOW) == (5, [])
    [finding] = certificates(tmp_path)
    assert (finding.what, finding.verdict, finding.found) == ("certificates of try", "ok", "all 5 good")


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        (issue(HOME, "sae", "x", not_after=NOW + timedelta(days=3, hours=1)), "expires in 3 days"),
        (issue(HOME, "sae", "x", not_before=NOW - timedelta(9), not_after=NOW - timedelta(1)), "expired at"),
        (issue(HOME, "sae", "x", not_before=NOW + timedelta(1)), "is valid from"),
        (issue(make_authority("home"), "sae", "x"), "was not issued by the CA of home"),
        (issue(HOME, "sae", "y"), "is of home sae y, but lies where that of home sae x should"),
        (issue(HOME, "operator", "x"), "is of home operator x"),
        (issue(HOME, "sae", "x", uris=[]), "has 0 URIs"),
        (issue(HOME, "sae", "x", uris=["urn:kmstn:home:king:x"]), "unknown role"),
        (issue(HOME, "device", "x", uris=["urn:kmstn:home:sae:x"]), "is not meant for clients"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said_and_how_to_mend_it(
    tmp_path: Path, leaf: Credential, says: str
) -> None:
    _number, problems = problems_of(a_testbed_with(tmp_path, sae_x=leaf), NOW)
    assert len(problems) == 1
    assert problems[0].startswith("home/sae/x.crt: ")
    assert says in problems[0]
    [finding] = certificates(tmp_path)
    assert finding.verdict == "warning"
    assert "invoke up" in finding.remedy


def test_damaged_file_is_named(tmp_path: Path) -> None:
    folder = a_testbed_with(tmp_path, sae_x=issue(HOME, "sae", "x"))
    (folder / "home/sae/x.crt").write_text("nothing")
    assert "home/sae/x.crt: cannot be read" in problems_of(folder, NOW)[1][0]


def test_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    folder = a_testbed_with(tmp_path, sae_x=issue(HOME, "sae", "x"), sae_z=issue(HOME, "sae", "z"))
    (folder / "home/sae/x.key").write_bytes((folder / "home/sae/z.key").read_bytes())
    assert problems_of(folder, NOW)[1] == ["home/sae/x.crt: its private key is another certificate's"]
