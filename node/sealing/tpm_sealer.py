"""Sealing the data key to a TPM's measured state, and the file that holds what was sealed.

At each start the measured state goes into PCR 11, which `startup-clear` has emptied; the data key is a sealed object
under an ECC primary key, its policy that PCR's value. Beside it the file names what it was sealed to and by which TPM:
not believed, but good for telling apart why it is not released.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from pathlib import Path

from node.crypto.secret_bytes import SecretBytes
from node.sealing.errors import MeasuredStateChangedError, SealedKeyDamagedError, TpmLockoutError, TpmReplacedError
from node.sealing.measure import MeasuredState
from node.sealing.tpm_commands import Tpm
from node.sealing.unsafe_plaintext_sealer import write_durably

# Extended once the data key is out: until the next start nobody, this node included, gets it from the TPM again.
CLOSING = hashlib.sha256(b"kmstn: the data key was released").digest()


class TpmSealer:
    """Seals and unseals at one TPM, which is told the measured state first. Raises SealingError."""

    def __init__(self, tpm: Tpm, measured: MeasuredState) -> None:
        self._tpm = tpm
        self._measured = measured
        _refuse_lockout(tpm)
        tpm.extend(measured.digest)

    def new_key(self, size_bytes: int) -> SecretBytes:
        """Draw a data key in the TPM."""
        return SecretBytes(self._tpm.random(size_bytes))

    def seal(self, data_key: SecretBytes, blob: Path) -> None:
        """Seal a data key to the measured state and store the blob durably."""
        private, public = self._tpm.seal(data_key.reveal())
        content = {
            "private": b64encode(private).decode(),
            "public": b64encode(public).decode(),
            "tpm": self._tpm.identity(),
            "software": self._measured.software,
            "identity": self._measured.identity,
        }
        write_durably(blob, json.dumps({**content, "sha256": _digest(content)}).encode())
        self._tpm.extend(CLOSING)

    def unseal(self, blob: Path) -> SecretBytes:
        """Release the data key."""
        content = _read(blob)
        if content["tpm"] != self._tpm.identity():
            raise TpmReplacedError(
                "the data key was sealed by another TPM, or by this one before it was wiped. Put that TPM's state "
                "back, or remove the volume to start over without the stored keys"
            )
        try:
            data_key = SecretBytes(self._tpm.unseal(b64decode(content["private"]), b64decode(content["public"])))
        except MeasuredStateChangedError as error:
            raise MeasuredStateChangedError(self._what_changed(content)) from error
        self._tpm.extend(CLOSING)
        return data_key

    def _what_changed(self, content: dict[str, str]) -> str:
        changes = []
        if content["software"] != self._measured.software:
            was, now = content["software"][:12], self._measured.software[:12]
            changes.append(f"the node's software is another (digest {now}, sealed to {was})")
        if content["identity"] != self._measured.identity:
            changes.append(f"the node's identity is {self._measured.identity}, sealed to {content['identity']}")
        why = " and ".join(changes) or "something else was measured into PCR 11, or the key was released already"
        return (
            f"the TPM does not release the data key: {why}. Start the earlier image with the earlier settings to "
            "reach the store, or remove the volume to start over without the stored keys"
        )


def _refuse_lockout(tpm: Tpm) -> None:
    lockout = tpm.lockout()
    if lockout.locked:
        raise TpmLockoutError(
            f"the TPM is in dictionary-attack lockout: somebody failed {lockout.failures} authorisations, and it "
            f"allows {lockout.limit}. It forgets one every {lockout.interval_s} s that it runs: have "
            "`python -m node.sealing.lockout` keep it running until it is out of lockout, then start the node again"
        )


def _read(blob: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(blob.read_bytes())
        stored = content.pop("sha256")
        if stored != _digest(content) or content.keys() != {"private", "public", "tpm", "software", "identity"}:
            raise ValueError("its digest is not that of its content")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SealedKeyDamagedError(
            f"{blob.name} is damaged ({type(error).__name__}): put a copy of it back, from any time since the "
            "installation, or remove the volume to start over without the stored keys"
        ) from error
    return content


def _digest(content: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
