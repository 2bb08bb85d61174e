"""What the node says to a TPM, as plain bytes and numbers. The only file that imports the TPM stack.

No object and no index counts for dictionary-attack protection: a node that is killed often must not lock its own TPM.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_NT, TPM2_PT, TPM2_SE, TPMA_NV, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_DIGEST,
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_KEYEDHASH_PARMS,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
    TPMT_HA,
    TPMT_KEYEDHASH_SCHEME,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMU_HA,
    TPMU_PUBLIC_PARMS,
)

from node.sealing.errors import (
    MeasuredStateChangedError,
    RollbackCounterError,
    SealingError,
    TpmLockoutError,
    TpmReplacedError,
    TpmUnavailableError,
)

# The library writes its own lines to stderr, also for errors that are handled here.
logging.getLogger("tpm2_pytss").setLevel(logging.ERROR)

PCR = ESYS_TR.PCR11
SELECTION = "sha256:11"
COUNTER_INDEX = 0x0180_0011  # In the owner's range, which is free for applications.
_COUNTER_SIZE_BYTES = 8

_RC_POLICY_FAIL = 0x99D
_RC_LOCKOUT = 0x921
_RC_INTEGRITY = 0x1DF  # The blob was not made by this TPM's primary key.
_RC_NO_SUCH_INDEX = 0x18B
_RC_WRONG_AUTH = 0x9A2
_RSPS_AUTH_FAILED = 0x7001B  # ESYS: the answer's HMAC is wrong, so it is not of whoever knows the index's secret.
_IN_LOCKOUT = 0x200  # TPMA_PERMANENT, bit 9
_PRIMARY = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)
_COUNTER = TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.NO_DA | (TPM2_NT.COUNTER << TPMA_NV.TPM2_NT_SHIFT)


@dataclass(frozen=True)
class Lockout:
    """Whether the TPM locked itself, and how it recovers: one failure is forgotten in each interval that it runs."""

    locked: bool
    failures: int
    limit: int
    interval_s: int


class Tpm:
    """One conversation with a TPM; use as a context. Every method raises SealingError: what the TPM's no means."""

    def __init__(self, tcti: str) -> None:
        with _explained():
            self._esys = ESAPI(tcti)
        self._primary: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        try:
            if self._primary is not None:
                self._esys.flush_context(self._primary)
        except TSS2_Exception:
            pass  # A TPM that is gone holds no context either.
        finally:
            self._esys.close()

    def lockout(self) -> Lockout:
        """Ask whether the TPM is in dictionary-attack lockout."""
        with _explained():
            _, found = self._esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.PERMANENT, 64)
        told = {int(one.property): int(one.value) for one in found.data.tpmProperties}
        wanted = (TPM2_PT.LOCKOUT_COUNTER, TPM2_PT.MAX_AUTH_FAIL, TPM2_PT.LOCKOUT_INTERVAL)
        return Lockout(bool(told[int(TPM2_PT.PERMANENT)] & _IN_LOCKOUT), *(told[int(what)] for what in wanted))

    def extend(self, digest: bytes) -> None:
        """Extend PCR 11 by a SHA-256 digest."""
        extension = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))
        with _explained():
            self._esys.pcr_extend(PCR, TPML_DIGEST_VALUES([extension]))

    def random(self, size_bytes: int) -> bytes:
        """Draw from the TPM's generator."""
        with _explained():
            return bytes(self._esys.get_random(size_bytes))

    def identity(self) -> str:
        """Return the name of the primary key, in hex: it follows from the TPM's seed, which a wipe replaces."""
        with _explained():
            _, name, _ = self._esys.read_public(self._primary_key())
        return bytes(name).hex()

    def seal(self, secret: bytes) -> tuple[bytes, bytes]:
        """Seal a secret to the value that PCR 11 has now; return the private and the public part."""
        with _explained():
            trial = self._policy_session(TPM2_SE.TRIAL)
            policy = self._esys.policy_get_digest(trial)
            self._esys.flush_context(trial)
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=secret))
            private, public, *_ = self._esys.create(self._primary_key(), sensitive, _sealed_template(policy))
        return private.marshal(), public.marshal()

    def unseal(self, private: bytes, public: bytes) -> bytes:
        """Release a secret; raises MeasuredStateChangedError or TpmReplacedError."""
        with _explained():
            parts = TPM2B_PRIVATE.unmarshal(private)[0], TPM2B_PUBLIC.unmarshal(public)[0]
            sealed = self._esys.load(self._primary_key(), *parts)
            secret = self._esys.unseal(sealed, session1=self._policy_session(TPM2_SE.POLICY))
            self._esys.flush_context(sealed)
        return bytes(secret)

    def has_counted(self) -> bool:
        """Whether the index of the rollback counter is there and was counted up."""
        with _explained():
            index = self._counter()
            if index is None:
                return False
            public, _ = self._esys.nv_read_public(index)
        return bool(public.nvPublic.attributes & TPMA_NV.WRITTEN)

    def make_counter(self, secret: bytes) -> None:
        """Make the counter anew, under a secret. It begins above every value that any counter of this TPM ever had."""
        public = TPMS_NV_PUBLIC(
            nvIndex=COUNTER_INDEX, nameAlg=TPM2_ALG.SHA256, attributes=_COUNTER, dataSize=_COUNTER_SIZE_BYTES
        )
        with _explained():
            if (old := self._counter()) is not None:
                self._esys.nv_undefine_space(old)
            self._esys.nv_define_space(secret, TPM2B_NV_PUBLIC(public))
        self.count(secret)

    def count(self, secret: bytes) -> None:
        """Count one up."""
        with self._at_counter(secret) as (index, session):
            self._esys.nv_increment(index, auth_handle=index, session1=session)

    def counted(self, secret: bytes) -> int:
        """Read the counter; the answer is authenticated with the secret, so nobody between can make one up."""
        with self._at_counter(secret) as (index, session):
            value = self._esys.nv_read(index, _COUNTER_SIZE_BYTES, 0, auth_handle=index, session1=session)
        return int.from_bytes(bytes(value), "big")

    def _primary_key(self) -> Any:
        if self._primary is None:
            template = TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=_PRIMARY)
            self._primary = self._esys.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.OWNER)[0]
        return self._primary

    def _policy_session(self, kind: Any) -> Any:
        session = self._session(kind)
        self._esys.policy_pcr(session, TPM2B_DIGEST(), TPML_PCR_SELECTION.parse(SELECTION))
        return session

    def _session(self, kind: Any) -> Any:
        symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        return self._esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, kind, symmetric, TPM2_ALG.SHA256)

    def _counter(self) -> Any:
        try:
            return self._esys.tr_from_tpmpublic(COUNTER_INDEX)
        except TSS2_Exception as error:
            if error.rc & 0xFFFF == _RC_NO_SUCH_INDEX:
                return None
            raise

    @contextmanager
    def _at_counter(self, secret: bytes) -> Iterator[tuple[Any, Any]]:
        with _explained():
            index = self._counter()
            if index is None:
                raise RollbackCounterError(_COUNTER_LOST.format("is gone"))
            self._esys.tr_set_auth(index, secret)
            session = self._session(TPM2_SE.HMAC)
            yield index, session
            self._esys.flush_context(session)


def _sealed_template(policy: Any) -> TPM2B_PUBLIC:
    scheme = TPMS_KEYEDHASH_PARMS(scheme=TPMT_KEYEDHASH_SCHEME(scheme=TPM2_ALG.NULL))
    template = TPMT_PUBLIC(
        type=TPM2_ALG.KEYEDHASH,
        nameAlg=TPM2_ALG.SHA256,
        objectAttributes=TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA,
        authPolicy=policy,
        parameters=TPMU_PUBLIC_PARMS(keyedHashDetail=scheme),
    )
    return TPM2B_PUBLIC(template)


_COUNTER_LOST = (
    "the TPM's rollback counter {}, so whether the store is the newest cannot be told: put the TPM's newest state "
    "back, or remove the volume to start over without the stored keys"
)
_LOCKED = "the TPM is in dictionary-attack lockout: it answers again after its recovery time"
_REPLACED = (
    "the sealed data key does not belong to this TPM: it was wiped or replaced. Put its state back, or remove the "
    "volume to start over without the stored keys"
)
_MEANINGS: dict[int, tuple[type[SealingError], str]] = {
    _RC_POLICY_FAIL: (MeasuredStateChangedError, "PCR 11 is not what the data key was sealed to"),
    _RC_LOCKOUT: (TpmLockoutError, _LOCKED),
    _RC_INTEGRITY: (TpmReplacedError, _REPLACED),
    _RC_WRONG_AUTH: (RollbackCounterError, _COUNTER_LOST.format("is not the one that this node made")),
}


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the TPM's codes into errors that say what they mean."""
    try:
        yield
    except TSS2_Exception as error:
        if error.rc == _RSPS_AUTH_FAILED:
            raise RollbackCounterError(_COUNTER_LOST.format("answers with a wrong authenticator")) from error
        if (meaning := _MEANINGS.get(error.rc & 0xFFFF)) is not None:
            kind, message = meaning
            raise kind(message) from error
        raise TpmUnavailableError(f"the TPM failed with 0x{error.rc:x}: {error}. Start the node again") from error
