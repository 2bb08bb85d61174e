"""This node's own KEM keys: one current key per purpose and suite, replaced in time, old ones kept while in flight.

A key is published until half of its life is over, then its successor is; both open messages until they expire. Keys
are durable before they are published, so that a restarted node still opens what was under way. A stored key of a suite
that the node's settings no longer name is neither published nor used: whoever still seals to it is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from node.crypto.kem import Provider, public_key_id
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import suite_kem, suite_named
from node.wire.federation import KemPublicKey

KemPurpose = Literal["hop", "seal"]


@dataclass(frozen=True, slots=True)
class KemKey:
    """A key pair for one purpose under one suite. Expiry in Unix seconds."""

    purpose: KemPurpose
    suite: str
    key_id: str
    public: bytes
    private: bytes = field(repr=False)
    expires_at: float


class KemKeyring:
    """The keys in use; the caller stores what `renewals` makes before it calls `install`."""

    def __init__(self, suites: tuple[str, ...], provider: Provider, lifetime_s: float) -> None:
        self._suites = suites
        self._provider: Provider = provider
        self._lifetime_s = lifetime_s
        self._keys: dict[str, KemKey] = {}

    def install(self, keys: Iterable[KemKey]) -> None:
        """Take stored keys into use, those of suites accepted now."""
        self._keys.update({key.key_id: key for key in keys if self.accepts(key.suite)})

    def accepts(self, suite: str) -> bool:
        """Tell whether this node accepts messages of a suite, and so has keys for it."""
        return suite in self._suites

    def renewals(self, now: float) -> tuple[KemKey, ...]:
        """Make a key wherever the current one is past half of its life, or there is none."""
        purposes: tuple[KemPurpose, ...] = ("hop", "seal")
        wanted = [(purpose, suite) for purpose in purposes for suite in self._suites]
        return tuple(self._make(*slot, now) for slot in wanted if not self._fresh(*slot, now))

    def forget_expired(self, now: float) -> None:
        """Drop expired keys: what was sealed to them can no longer be opened."""
        self._keys = {key_id: key for key_id, key in self._keys.items() if key.expires_at > now}

    def published(self) -> tuple[KemPublicKey, ...]:
        """Return the newest key of each purpose and suite."""
        newest: dict[tuple[str, str], KemKey] = {}
        for key in sorted(self._keys.values(), key=lambda key: key.expires_at):
            newest[key.purpose, key.suite] = key
        return tuple(
            KemPublicKey(purpose=key.purpose, suite=key.suite, key_id=key.key_id, public_key=key.public)
            for key in newest.values()
        )

    def private_key(self, purpose: KemPurpose, suite: str, key_id: str) -> SecretBytes | None:
        """Return the private key that a message names, or None if it is unknown, expired or for something else."""
        key = self._keys.get(key_id)
        if key is None or (key.purpose, key.suite) != (purpose, suite):
            return None
        return SecretBytes(key.private)

    def _fresh(self, purpose: KemPurpose, suite: str, now: float) -> bool:
        return any(
            (key.purpose, key.suite) == (purpose, suite) and key.expires_at - now > self._lifetime_s / 2
            for key in self._keys.values()
        )

    def _make(self, purpose: KemPurpose, suite: str, now: float) -> KemKey:
        pair = suite_kem(self._provider, suite).generate()
        key_id = public_key_id(suite_named(suite).mechanism, pair.public)
        return KemKey(purpose, suite, key_id, pair.public, pair.private.reveal(), now + self._lifetime_s)
