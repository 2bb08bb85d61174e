"""Sealing the data key to the TPM's measured state. The only file that imports the TPM stack.

At each start the measured state goes into PCR 11, which `startup-clear` has emptied; the data key is a sealed object
under an ECC primary key, its policy that PCR's value. No object counts for dictionary-attack protection: a node that
is killed often must not lock its own TPM.
"""

import hashlib
import json
import logging
from base64 import b64decode, b64encode
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_DIGEST,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_KEYEDHASH_PARMS,
    TPMS_SENSITIVE_CREATE,
    TPMT_HA,
    TPMT_KEYEDHASH_SCHEME,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMU_HA,
    TPMU_PUBLIC_PARMS,
)

from node.crypto.secret_bytes import SecretBytes
from node.sealing.errors import (
    MeasuredStateChangedError,
    SealingError,
    TpmLockoutError,
    TpmReplacedError,
    TpmUnavailableError,
)
from node.sealing.unsafe_plaintext_sealer import write_durably

# The library writes its own lines to stderr, also for errors that are handled here.
logging.getLogger("tpm2_pytss").setLevel(logging.ERROR)

PCR = ESYS_TR.PCR11
SELECTION = "sha256:11"
# Extended once the data key is out: until the next start nobody, this node included, gets it from the TPM again.
CLOSING = hashlib.sha256(b"kmstn: the data key was released").digest()

_RC_POLICY_FAIL = 0x99D
_RC_LOCKOUT = 0x921
_RC_INTEGRITY = 0x1DF  # The blob was not made by this TPM's primary key.
_PRIMARY = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)


class TpmSealer:
    """One conversation with a TPM, begun by measuring the node; use as a context."""

    def __init__(self, tcti: str, measured_state: bytes) -> None:
        try:
            self._tpm = ESAPI(tcti)
            self._extend(measured_state)
            template = TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=_PRIMARY)
            self._primary: Any = self._tpm.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.OWNER)[0]
        except TSS2_Exception as error:
            raise _explained(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._tpm.flush_context(self._primary)
        self._tpm.close()

    def seal_new(self, blob: Path, size_bytes: int) -> SecretBytes:
        """Draw a data key in the TPM, seal it to the measured state, store the blob durably."""
        try:
            data_key = bytes(self._tpm.get_random(size_bytes))
            private, public = self._sealed(data_key)
        except TSS2_Exception as error:
            raise _explained(error) from error
        self._extend(CLOSING)
        stored = {"private": b64encode(private).decode(), "public": b64encode(public).decode()}
        write_durably(blob, json.dumps(stored).encode())
        return SecretBytes(data_key)

    def unseal(self, blob: Path) -> SecretBytes:
        """Release the data key; raises SealingError saying which of the things it needs is not as it was."""
        try:
            stored = json.loads(blob.read_bytes())
            private, _ = TPM2B_PRIVATE.unmarshal(b64decode(stored["private"]))
            public, _ = TPM2B_PUBLIC.unmarshal(b64decode(stored["public"]))
        except (ValueError, KeyError, TypeError, TSS2_Exception) as error:
            raise TpmReplacedError(f"{blob} is damaged: put back a copy, or remove the volume to start over") from error
        try:
            sealed = self._tpm.load(self._primary, private, public)
            session = self._session(TPM2_SE.POLICY)
            data_key = SecretBytes(bytes(self._tpm.unseal(sealed, session1=session)))
            self._extend(CLOSING)
        except TSS2_Exception as error:
            raise _explained(error) from error
        return data_key

    def _extend(self, digest: bytes) -> None:
        extension = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))
        self._tpm.pcr_extend(PCR, TPML_DIGEST_VALUES([extension]))

    def _sealed(self, data_key: bytes) -> tuple[bytes, bytes]:
        trial = self._session(TPM2_SE.TRIAL)
        policy = self._tpm.policy_get_digest(trial)
        self._tpm.flush_context(trial)
        scheme = TPMS_KEYEDHASH_PARMS(scheme=TPMT_KEYEDHASH_SCHEME(scheme=TPM2_ALG.NULL))
        template = TPMT_PUBLIC(
            type=TPM2_ALG.KEYEDHASH,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA,
            authPolicy=policy,
            parameters=TPMU_PUBLIC_PARMS(keyedHashDetail=scheme),
        )
        secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=data_key))
        private, public, *_ = self._tpm.create(self._primary, secret, TPM2B_PUBLIC(template))
        return private.marshal(), public.marshal()

    def _session(self, kind: Any) -> Any:
        symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        session = self._tpm.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, kind, symmetric, TPM2_ALG.SHA256)
        self._tpm.policy_pcr(session, TPM2B_DIGEST(), TPML_PCR_SELECTION.parse(SELECTION))
        return session


def _explained(error: TSS2_Exception) -> SealingError:
    code = error.rc & 0xFFFF
    if code == _RC_POLICY_FAIL:
        return MeasuredStateChangedError(
            "the TPM does not release the data key: the node's software or identity is not what the key was sealed to. "
            "Start the earlier image to reach the store, or remove the volume to start over without the stored keys"
        )
    if code == _RC_LOCKOUT:
        return TpmLockoutError("the TPM is in dictionary-attack lockout: it answers again after its recovery time")
    if code == _RC_INTEGRITY:
        return TpmReplacedError(
            "the sealed data key does not belong to this TPM: it was wiped or replaced. Put its state back, "
            "or remove the volume to start over without the stored keys"
        )
    return TpmUnavailableError(f"the TPM failed with 0x{error.rc:x}: {error}")
