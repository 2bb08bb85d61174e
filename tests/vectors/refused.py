"""Vectors that must be refused: one that opens, changed in one place, for every place there is.

The code refuses each before it is written.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from node.crypto.end_to_end_seal import SealContext, Sealed, open_sealed
from node.crypto.errors import RefusedError
from node.crypto.hybrid_transport import HopContext, ProtectedBodies, Protection, open_protected
from node.crypto.pool_wrap import WrapContext, Wrapped, unwrap
from node.crypto.secret_bytes import SecretBytes
from tests.vectors.inputs import FixedKem, as_tuples, from_hex
from tests.vectors.kem_vectors import COMBINED_SUITE

# What opening gives; everything else goes into it.
OUTPUTS = ("bodies", "keys")
OTHER_WORDS = {"qkd+pqc": "pqc", "pqc": "qkd+pqc", "mlkem768-v1": "mlkem1024-v1", COMBINED_SUITE: "mlkem1024-v1"}


def refused_vectors(opening: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Change each vector that opens in one place after the other, and keep what each change was."""
    found = []
    for file, vectors in opening.items():
        for number, vector in enumerate(vectors):
            inputs = {name: value for name, value in vector.items() if name not in OUTPUTS}
            for path, value in alterations(inputs):
                if file == "pool_wrap.json" and path[0] == "blocks" and path[1:] > [0]:
                    continue  # A pad takes part in no tag: with another one, another key comes out.
                if opens(file, altered(vector, path, value)):
                    raise ValueError(f"{file}[{number}] still opens with {path} changed")
                found.append({"of": file, "number": number, "path": path, "value": value})
    return found


def alterations(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[list[str | int], Any]]:
    """Yield (place, other value) for every leaf, and for every list one with its last member gone, or one more."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from alterations(inner, (*path, name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from alterations(inner, (*path, index))
        added = ["added"] if path[0] == "context" else [["00" * 32]]
        yield list(path), list(value[:-1]) if len(value) > 1 else [*value, *(value or added)]
    elif path[0] == "context":
        yield list(path), OTHER_WORDS.get(value, value + 1 if isinstance(value, int) else f"{value}x")
    else:
        yield list(path), f"{int(value[:2], 16) ^ 1:02x}{value[2:]}"


def altered(vector: dict[str, Any], path: Sequence[str | int], value: Any) -> dict[str, Any]:
    """Return the vector with one place changed."""
    copy: dict[str, Any] = json.loads(json.dumps(vector))
    place: Any = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def opens(file: str, vector: dict[str, Any]) -> bool:
    """Tell whether the node's code opens a vector of a file; any `bodies` or `keys` in it are not looked at."""
    context = {name: as_tuples(value) for name, value in vector["context"].items()}
    try:
        if file == "pool_wrap.json":
            wrapped = Wrapped(from_hex(vector["values"]), from_hex(vector["tag"]))
            unwrap(wrapped, from_hex(vector["blocks"]), WrapContext(**context))
            return True
        engine = FixedKem(secret=from_hex(vector["kem_secret"]))
        if file == "end_to_end_seal.json":
            sealed = Sealed(*(from_hex(vector[part]) for part in ("kem_ciphertext", "ciphertexts", "tags")))
            open_sealed(sealed, SealContext(**context), engine, SecretBytes(b""))
        else:
            protected = ProtectedBodies(*(from_hex(vector[part]) for part in ("kem_ciphertext", "values", "tags")))
            hop = HopContext(**{**context, "protection": Protection(context["protection"])})
            open_protected(protected, hop, engine, SecretBytes(b""), from_hex(vector["link_keys"]))
    except RefusedError:
        return False
    return True
