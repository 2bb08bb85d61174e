"""The nouns of key delivery: none of them prints the bytes it holds, and grades never come out too good."""

import pytest

from node.core.kem_keys import KemKey
from node.core.keys import Grade, KeyBlock, Parcel, PoolBlock, grade_of
from node.wire.federation import EndToEnd, HopProtection, Purpose

SECRET = b"a secret of thirty-two bytes ..."
HOLDERS = [
    KeyBlock("id-1", SECRET),
    PoolBlock("id-1", SECRET, Grade.QKD),
    KemKey("hop", "mlkem768-v1", "id-1", b"public", SECRET, 1.0),
    Parcel(
        parcel_id="id-1",
        purpose=Purpose.POOL_BLOCK,
        initiator_sae="a",
        target_saes=("b",),
        key_ids=("id-2",),
        bodies=(SECRET,),
        end_to_end=EndToEnd(origin="n1", destination="n2"),
        path=("n1",),
        protections=(),
        upstream=None,
        downstream="n2",
        expires_at=1.0,
    ),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_key_bytes_are_not_printed(holder: object) -> None:
    shown = f"{holder!r} {holder} {[holder]}"
    assert "id-1" in shown
    for form in (SECRET.decode(), SECRET.hex(), repr(SECRET)[2:-1]):
        assert form not in shown


@pytest.mark.parametrize(
    ("protections", "grade"),
    [
        ((), Grade.QKD),
        (("qkd+pqc", "qkd+pqc"), Grade.QKD),
        (("qkd+pqc", "pqc", "qkd+pqc"), Grade.PQC),
        (("pqc",), Grade.PQC),
    ],
)
def test_one_hop_without_qkd_lowers_the_grade_of_the_way(protections: tuple[HopProtection, ...], grade: Grade) -> None:
    assert grade_of(protections) is grade
