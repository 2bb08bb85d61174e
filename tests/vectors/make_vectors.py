"""Makes the test vectors beside it: `python -m tests.vectors.make_vectors` from the project's root.

With `--check` nothing is written: exit code 1 tells that a file is not what the code gives, and names it.

Every input is fixed. Where a protection uses a KEM, a KEM whose ciphertext and secret are fixed stands in, so that the
vectors cover key derivation and encryption alone; KEMs have vectors of their own (`kem_vectors`), the only ones that
keep something random from the files as they are. What must be refused (`refused`) is computed from what opens.
The vectors pin the wire format: a change here is a change of suite, and needs a new suite name.
"""

import json
import sys
from pathlib import Path
from typing import Any

from node.crypto.aead import associated_data, time_as_text
from node.crypto.end_to_end_seal import SealContext, seal_for
from node.crypto.hybrid_transport import HopContext, Protection, protect
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem
from node.crypto.pool_wrap import WrapContext, blocks_needed, wrap
from tests.vectors.inputs import FIXED, FOLDER, FixedKem, in_hex, material
from tests.vectors.kem_vectors import COMBINED_SUITE, LIBOQS_SUITES, combined_vector, liboqs_vector, ml_kem_vector
from tests.vectors.refused import refused_vectors

BODY_SIZES = (8, 32, 40, 64)


def all_vectors() -> dict[str, Any]:
    """Return what each file holds, by file name."""
    ml_kem = [ml_kem_vector(mechanism) for mechanism in (ML_KEM_768, ML_KEM_1024)]
    liboqs = [liboqs_vector(suite) for suite in LIBOQS_SUITES]
    (combined,) = (vector for vector in liboqs if vector["suite"] == COMBINED_SUITE)
    real = FixedKem(bytes.fromhex(combined["ciphertext"]), bytes.fromhex(combined["secret"]))
    opening = {
        "hop.json": [
            hop_vector(Protection.QKD_PQC),
            hop_vector(Protection.PQC),
            hop_vector(Protection.QKD_PQC, COMBINED_SUITE, real),
        ],
        "end_to_end_seal.json": [seal_vector(), seal_vector(COMBINED_SUITE, real)],
        "pool_wrap.json": [wrap_vector()],
    }
    return {
        "associated_data.json": associated_data_vectors(),
        **opening,
        "refused.json": refused_vectors(opening),
        "ml_kem.json": ml_kem,
        "combined_kem.json": [combined_vector(ml_kem)],
        "liboqs_kem.json": liboqs,
    }


def serialised(vectors: Any) -> str:
    """Return the text of a vector file."""
    return json.dumps(vectors, indent=1, sort_keys=True) + "\n"


def associated_data_vectors() -> list[dict[str, Any]]:
    """Cover every kind of value that the encoding knows."""
    fields = {"text": 'ñ"\\', "number": -1, "yes": True, "none": None, "nested": [["a", "b"], [], 0]}
    return [
        {"label": label, "fields": chosen, "encoding": associated_data(label, **chosen).hex()}
        for label, chosen in (("kmstn vector", fields), ("kmstn vector", {}), ("", {"fields": "label"}))
    ]


def hop_vector(protection: Protection, suite: str = "mlkem768-v1", engine: Kem = FIXED) -> dict[str, Any]:
    """One transfer of four bodies, with link keys where the grade has them."""
    qkd = protection is Protection.QKD_PQC
    bodies = [material(f"body {index}", size) for index, size in enumerate(BODY_SIZES)]
    numbers = [-(-size // 32) for size in BODY_SIZES] if qkd else []
    link_keys = [[material(f"link key {i} {j}", 32) for j in range(number)] for i, number in enumerate(numbers)]
    context = {
        "suite": suite,
        "transfer_id": "b9ab1d2c-6b5a-4b3e-9df5-6c0d7f6f5f01",
        "sender": "kmstn1",
        "receiver": "kmstn2",
        "kem_key_id": "00112233445566778899aabbccddeeff",
        "initiator_sae_id": "sae-a",
        "target_sae_ids": ("sae-b", "sae-c"),
        "key_ids": tuple(f"key-{index}" for index in range(len(BODY_SIZES))),
        "link_key_ids": tuple(tuple(f"link-{i}-{j}" for j in range(number)) for i, number in enumerate(numbers)),
        "path": ("kmstn1",),
        "hop": 0,
        "purpose": "pool",
        "callback": "https://kmstn1:8020/kmapi/v1/ext_keys/ack",
    }
    made = protect(bodies, HopContext(protection=protection, **context), engine, b"", link_keys)  # type: ignore[arg-type]
    return {
        "context": {**context, "protection": protection.value},
        "kem_secret": engine.encapsulate(b"")[1].hex(),
        "kem_ciphertext": made.kem_ciphertext.hex(),
        "bodies": in_hex(bodies),
        "link_keys": [in_hex(keys) for keys in link_keys],
        "values": in_hex(made.values),
        "tags": in_hex(made.tags),
    }


def seal_vector(suite: str = "mlkem768-v1", engine: Kem = FIXED) -> dict[str, Any]:
    """One batch of four bodies from kmstn1 to kmstn7."""
    bodies = [material(f"body {index}", size) for index, size in enumerate(BODY_SIZES)]
    context = SealContext(
        suite=suite,
        origin="kmstn1",
        destination="kmstn7",
        kem_key_id="00112233445566778899aabbccddeeff",
        initiator_sae_id="sae-a",
        target_sae_ids=("sae-b",),
        key_ids=tuple(f"key-{index}" for index in range(len(BODY_SIZES))),
        purpose="session",
        expires_at=time_as_text(1_700_000_000.25),
    )
    made = seal_for(bodies, context, engine, b"")
    return {
        "context": vars(context),
        "kem_secret": engine.encapsulate(b"")[1].hex(),
        "kem_ciphertext": made.kem_ciphertext.hex(),
        "bodies": in_hex(bodies),
        "ciphertexts": in_hex(made.ciphertexts),
        "tags": in_hex(made.tags),
    }


def wrap_vector() -> dict[str, Any]:
    """One request of four keys."""
    keys = [material(f"key {index}", size) for index, size in enumerate(BODY_SIZES)]
    number = blocks_needed(BODY_SIZES)
    blocks = [material(f"block {index}", 32) for index in range(number)]
    context = WrapContext(
        origin="kmstn1",
        destination="kmstn7",
        initiator_sae_id="sae-a",
        target_sae_ids=("sae-b",),
        key_ids=tuple(f"key-{index}" for index in range(len(keys))),
        block_ids=tuple(f"block-{index}" for index in range(number)),
        purpose="session",
        expires_at=time_as_text(1_700_000_000.25),
    )
    made = wrap(keys, blocks, context)
    return {
        "context": vars(context),
        "keys": in_hex(keys),
        "blocks": in_hex(blocks),
        "values": in_hex(made.values),
        "tag": made.tag.hex(),
    }


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the names of the files in the folder that are not what the code gives."""
    wanted = {name: serialised(vectors) for name, vectors in all_vectors().items()}
    return [name for name, text in wanted.items() if not _holds(folder / name, text)]


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def main(arguments: list[str]) -> int:
    """Write the vectors, or with `--check` compare them; returns the exit code."""
    if arguments == ["--check"]:
        names = stale()
        if names:
            print(f"not fresh: {', '.join(names)}; python -m tests.vectors.make_vectors writes them", file=sys.stderr)
        return 1 if names else 0
    for file_name, vectors in all_vectors().items():
        (FOLDER / file_name).write_text(serialised(vectors))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
