"""Parcels as bytes: whatever a parcel holds comes back, also from a store of an older node."""

import json

from node.storage.parcel_codec import parcel_from_bytes, parcel_to_bytes
from tests.unit.storage.small_stores import parcel

KEY_ID = "00000000-0000-4000-8000-000000000001"
CARRIED = '[{"E1_x":["é\\n",null]},{}]'


def test_parcel_comes_back_with_the_extensions_it_carries() -> None:
    for kept in (
        parcel("p1", (KEY_ID,)),
        parcel("p1", (KEY_ID,), carried=CARRIED, synchronous=True, upstream="n0"),
    ):
        assert parcel_from_bytes(parcel_to_bytes(kept)) == kept


def test_parcel_stored_before_there_were_extensions_is_read() -> None:
    bodies, _, rest = parcel_to_bytes(parcel("p1", (KEY_ID,))).partition(b"\n")
    members = json.loads(rest)
    del members["carried"], members["synchronous"]
    assert parcel_from_bytes(bodies + b"\n" + json.dumps(members).encode()) == parcel("p1", (KEY_ID,))
