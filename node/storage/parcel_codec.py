"""Parcels as bytes for the store: JSON with base64 bodies."""

from pydantic import TypeAdapter

from node.core.keys import Parcel
from node.wire.etsi020 import Base64

_PARCEL = TypeAdapter(Parcel)
_BODIES = TypeAdapter(tuple[Base64, ...])


def parcel_to_bytes(parcel: Parcel) -> bytes:
    """Serialise a parcel; the result holds sealed bodies and is itself sealed before it is stored."""
    bodies = _BODIES.dump_json(parcel.bodies)
    return bodies + b"\n" + _PARCEL.dump_json(parcel, exclude={"bodies"})


def parcel_from_bytes(stored: bytes) -> Parcel:
    """Read what `parcel_to_bytes` wrote."""
    bodies, _, rest = stored.partition(b"\n")
    members = {**_LOOSE.validate_json(rest), "bodies": _BODIES.validate_json(bodies)}
    return _PARCEL.validate_python(members)


_LOOSE = TypeAdapter(dict[str, object])
