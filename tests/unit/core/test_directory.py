"""Adverts that must not be believed, and what becomes of those that are."""

from datetime import UTC, datetime

import pytest

from node.core.directory import AdvertRefusedError, Directory
from node.crypto.advert_signature import AdvertSigner, signature_is_valid
from node.identity_uri import Role
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from node.wire.federation import KemPublicKey, NodeAdvert, SignedAdvert
from tests.certificates import Credential, issue, make_authority

NOW = datetime.now(UTC).timestamp()
AUTHORITIES = {domain: make_authority(domain) for domain in ("east", "west", "rogue")}
TRUSTED = TrustAnchors({domain: AUTHORITIES[domain].certificate for domain in ("east", "west")})
N1 = issue(AUTHORITIES["east"], Role.NODE, "n1")
N2 = issue(AUTHORITIES["west"], Role.NODE, "n2")
WEAK, STRONG, BOTH = "mlkem768-v1", "mlkem1024-v1", "mlkem768+frodokem976aes-v1"


def key_for(purpose: str, suite: str) -> KemPublicKey:
    return KemPublicKey.model_validate(
        {"purpose": purpose, "suite": suite, "key_id": f"{purpose} {suite}", "public_key": "AAAA"}
    )


HOP_KEY, SEAL_KEY = key_for("hop", WEAK), key_for("seal", WEAK)


def owner_of(certificate: bytes, now: float) -> tuple[str, str]:
    try:
        identity = TRUSTED.identify(certificate, datetime.fromtimestamp(now, UTC))
    except CertificateRefusedError as error:
        raise AdvertRefusedError(error.reason) from error
    if identity.role is not Role.NODE:
        raise AdvertRefusedError(f"{identity} is no node")
    return identity.domain, identity.name


def directory(*suites: str) -> Directory:
    return Directory(owner_of, suites, clock_skew_s=10.0)


def advert(
    node: str = "n1",
    domain: str = "east",
    issued_at: float = NOW,
    saes: tuple[str, ...] = ("a",),
    suites: tuple[str, ...] = (WEAK,),
) -> NodeAdvert:
    return NodeAdvert(
        node=node,
        domain=domain,
        saes=saes,
        suites=suites,
        kem_keys=tuple(key_for(purpose, suite) for purpose in ("hop", "seal") for suite in suites),
        issued_at=issued_at,
        expires_at=issued_at + 30,
    )


def signed(what: NodeAdvert, by: Credential = N1) -> SignedAdvert:
    return AdvertSigner(by.key, by.der).sign(what.model_dump_json().encode())


def assert_refused(message: SignedAdvert, why: str, now: float = NOW) -> None:
    book = directory(WEAK)
    with pytest.raises(AdvertRefusedError, match=why):
        book.learn(message, now)
    assert book.nodes() == ()
    assert book.home_of("a") is None


def test_believed_advert_says_where_an_sae_is_and_which_keys_to_seal_to() -> None:
    book = directory(WEAK)
    book.learn(signed(advert()), NOW)
    book.learn(signed(advert("n2", "west", saes=("b",)), N2), NOW)
    assert [book.home_of(sae) for sae in ("a", "b", "c")] == ["n1", "n2", None]
    assert book.kem_key("n1", "hop") == HOP_KEY
    assert book.kem_key("n1", "seal") == SEAL_KEY
    assert book.kem_key("n3", "hop") is None


def test_sae_that_nobody_serves_has_no_home_though_a_node_has_its_name() -> None:
    book = directory(WEAK)
    book.learn(signed(advert()), NOW)
    assert book.home_of("n1") is None


def test_advert_passed_on_is_still_believed_by_the_next() -> None:
    first, second = directory(WEAK), directory(WEAK)
    first.learn(signed(advert()), NOW)
    for message in first.signed_adverts():
        second.learn(message, NOW)
    assert second.node("n1") == advert()


def test_node_of_a_domain_that_is_not_trusted() -> None:
    rogue = issue(AUTHORITIES["rogue"], Role.NODE, "n1")
    assert_refused(signed(advert(domain="rogue"), rogue), "not trusted")


def test_trusted_domain_speaks_for_another() -> None:
    claims_east = issue(AUTHORITIES["west"], Role.NODE, "n1", uris=["urn:kmstn:east:node:n1"])
    assert_refused(signed(advert(), claims_east), "not issued by the CA of east")


def test_node_speaks_for_another_node() -> None:
    assert_refused(signed(advert("n2")), "signed by somebody else")


def test_node_claims_to_be_of_another_domain() -> None:
    assert_refused(signed(advert(domain="west")), "signed by somebody else")


def test_sae_with_a_right_certificate_poses_as_a_node() -> None:
    sae = issue(AUTHORITIES["east"], Role.SAE, "n1")
    assert_refused(signed(advert(), sae), "is no node")


def test_signature_by_a_key_that_is_not_the_certificate_s() -> None:
    thief = Credential("east", N1.certificate, N2.key)
    assert_refused(signed(advert(), thief), "signature of the advert of n1 is wrong")


def test_body_changed_on_the_way() -> None:
    message = signed(advert())
    changed = message.model_copy(update={"body": message.body.replace(b'"a"', b'"x"')})
    assert changed.body != message.body
    assert_refused(changed, "signature of the advert of n1 is wrong")


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"node":"n1"}', b"\xff"])
def test_body_that_is_no_advert(body: bytes) -> None:
    assert_refused(AdvertSigner(N1.key, N1.der).sign(body), "not an advert")


def test_unknown_member_in_an_advert() -> None:
    body = advert().model_dump_json().encode()[:-1] + b',"is_admin":true}'
    assert_refused(AdvertSigner(N1.key, N1.der).sign(body), "not an advert")


@pytest.mark.parametrize("certificate", [b"", b"no certificate", N1.der[:-1]])
def test_certificate_that_is_none(certificate: bytes) -> None:
    message = signed(advert()).model_copy(update={"certificate": certificate})
    assert_refused(message, "unreadable certificate")
    assert not signature_is_valid(message)


def test_expired_advert_is_refused_once_the_clock_skew_is_over() -> None:
    message = signed(advert(issued_at=NOW))
    directory(WEAK).learn(message, NOW + 39)
    assert_refused(message, "has expired", NOW + 40)


def test_advert_from_further_in_the_future_than_clocks_differ() -> None:
    directory(WEAK).learn(signed(advert(issued_at=NOW + 10)), NOW)
    assert_refused(signed(advert(issued_at=NOW + 11)), "from the future")


def test_replayed_older_advert_changes_nothing() -> None:
    book = directory(WEAK)
    old, new = advert(issued_at=NOW - 5, saes=("a", "gone")), advert(issued_at=NOW)
    book.learn(signed(old), NOW)
    assert book.home_of("gone") == "n1"
    book.learn(signed(new), NOW)
    book.learn(signed(old), NOW)
    assert book.node("n1") == new
    assert book.home_of("gone") is None


def test_forged_newer_advert_does_not_displace_the_known_one() -> None:
    book = directory(WEAK)
    book.learn(signed(advert()), NOW)
    with pytest.raises(AdvertRefusedError):
        book.learn(signed(advert(issued_at=NOW + 1, saes=("a", "x")), N2), NOW)
    assert book.node("n1") == advert()


def test_node_not_heard_of_in_time_is_forgotten_with_its_saes() -> None:
    book = directory(WEAK)
    book.learn(signed(advert()), NOW)
    book.learn(signed(advert("n2", "west", NOW + 5, ("b",)), N2), NOW)
    book.forget_expired(NOW + 39)
    assert book.home_of("a") == "n1"
    book.forget_expired(NOW + 42)
    assert book.home_of("a") is None
    assert [node.node for node in book.nodes()] == ["n2"]


def test_trusted_domain_cannot_take_over_the_name_of_a_node_of_another() -> None:
    book = directory(WEAK)
    book.learn(signed(advert()), NOW)
    impostor = issue(AUTHORITIES["west"], Role.NODE, "n1")
    with pytest.raises(AdvertRefusedError):
        book.learn(signed(advert(domain="west", issued_at=NOW + 1), impostor), NOW + 1)
    assert book.node("n1") == advert()


def test_sae_that_a_second_node_claims_stays_where_it_was_known_first() -> None:
    book = directory(WEAK)
    book.learn(signed(advert("n2", "west", saes=("b",)), N2), NOW)
    book.learn(signed(advert("n1", saes=("b",))), NOW)
    assert book.home_of("b") == "n2"


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ((STRONG, WEAK), (WEAK, STRONG), STRONG),
        ((WEAK, STRONG), (STRONG, WEAK), WEAK),
        ((BOTH, STRONG, WEAK), (WEAK, STRONG), STRONG),
        ((STRONG,), (WEAK,), None),
        ((WEAK,), (STRONG, BOTH), None),
        ((STRONG, WEAK), ("mlkem1024-v2", WEAK), WEAK),
        ((STRONG,), (), None),
        ((), (WEAK,), None),
    ],
)
def test_suite_towards_a_node_is_the_first_of_our_own_list_that_it_has_too(
    ours: tuple[str, ...], theirs: tuple[str, ...], agreed: str | None
) -> None:
    book = directory(*ours)
    book.learn(signed(advert(suites=theirs)), NOW)
    assert book.agreed_suite("n1") == agreed
    for purpose in ("hop", "seal"):
        key = book.kem_key("n1", purpose)
        assert (key.suite, key.purpose) == (agreed, purpose) if key else agreed is None


def test_neighbour_that_suddenly_offers_only_weaker_suites_gets_no_key_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = directory(BOTH, STRONG)
    book.learn(signed(advert(suites=(BOTH, STRONG, WEAK))), NOW)
    assert not caplog.records
    for seconds in range(1, 4):
        book.learn(signed(advert(issued_at=NOW + seconds, suites=(WEAK,))), NOW + seconds)
        assert book.kem_key("n1", "hop") is None
        assert book.kem_key("n1", "seal") is None
    assert [record.message for record in caplog.records] == [
        f"downgrade refused: n1 offers {WEAK}, this node accepts {BOTH}, {STRONG} only"
    ]
    book.learn(signed(advert(issued_at=NOW + 9, suites=(STRONG,))), NOW + 9)
    assert book.kem_key("n1", "hop") == key_for("hop", STRONG)


def test_node_that_offers_nothing_acceptable_from_the_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    book = directory(STRONG)
    book.learn(signed(advert(suites=(WEAK,))), NOW)
    assert "downgrade refused: n1" in caplog.text
    assert book.home_of("a") == "n1"


def test_step_down_within_our_own_list_is_the_neighbours_to_take_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = directory(STRONG, WEAK)
    book.learn(signed(advert(suites=(STRONG, WEAK))), NOW)
    book.learn(signed(advert(issued_at=NOW + 1, suites=(WEAK,))), NOW + 1)
    assert book.kem_key("n1", "hop") == HOP_KEY
    assert f"n1 no longer offers {STRONG}" in caplog.text


def test_older_signed_advert_replayed_to_remove_a_suite_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    book = directory(STRONG, WEAK)
    old, new = advert(issued_at=NOW - 5, suites=(WEAK,)), advert(issued_at=NOW, suites=(STRONG, WEAK))
    book.learn(signed(new), NOW)
    for replay in (old, new.model_copy(update={"suites": (WEAK,)})):
        book.learn(signed(replay), NOW)
        assert book.agreed_suite("n1") == STRONG
    assert not caplog.records
    # Once the newer one is forgotten, the older has expired too.
    book.forget_expired(NOW + 41)
    with pytest.raises(AdvertRefusedError, match="expired"):
        book.learn(signed(old), NOW + 41)


@pytest.mark.parametrize("remove", ["suites", "kem_keys"])
def test_suite_or_key_taken_out_of_an_advert_on_the_way_breaks_its_signature(remove: str) -> None:
    message = signed(advert(suites=(STRONG, WEAK)))
    whole = NodeAdvert.model_validate_json(message.body)
    weaker = whole.model_copy(update={remove: getattr(whole, remove)[1:]})
    changed = message.model_copy(update={"body": weaker.model_dump_json().encode()})
    assert_refused(changed, "signature of the advert of n1 is wrong")


def test_missing_key_of_the_agreed_suite_is_not_made_up_for_by_a_weaker_one() -> None:
    book = directory(STRONG, WEAK)
    whole = advert(suites=(STRONG, WEAK))
    book.learn(signed(whole.model_copy(update={"kem_keys": (HOP_KEY, SEAL_KEY)})), NOW)
    assert book.kem_key("n1", "hop") is None
