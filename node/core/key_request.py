"""What an SAE may ask for: the checks of a Get key request against figures and policy. Pure.

ETSI GS QKD 014 prescribes some messages letter for letter; those come from `wire.etsi014`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.errors import BadRequestError, NotAuthorisedError
from node.settings import KeySettings
from node.wire import etsi014


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """A request that is in order. Size in bits."""

    master_sae: str
    slave_saes: tuple[str, ...]
    number: int
    size_bits: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may ask for keys at this node, and with whom."""

    saes: frozenset[str]
    allowed_pairs: frozenset[tuple[str, str]] | None
    keys: KeySettings

    def order(self, caller: str, slave_sae: str, request: etsi014.KeyRequest) -> KeyOrder:
        """Check a Get key request; raises NotAuthorisedError or BadRequestError, and nothing has happened then."""
        self.admit(caller)
        slaves = tuple(dict.fromkeys((slave_sae, *request.additional_slave_SAE_IDs)))
        self._check_slaves(caller, slaves, request)
        size_bits = self.keys.key_size if request.size is None else request.size
        self._check_size(size_bits)
        if not 1 <= request.number <= self.keys.max_key_per_request:
            raise BadRequestError("number is out of bounds", {"number": f"1 to {self.keys.max_key_per_request}"})
        if request.extension_mandatory:
            raise BadRequestError(etsi014.MANDATORY_NOT_SUPPORTED, _names(request.extension_mandatory))
        return KeyOrder(caller, slaves, request.number, size_bits)

    def admit(self, caller: str) -> None:
        """Check that the caller is registered at this node; raises NotAuthorisedError."""
        if caller not in self.saes:
            raise NotAuthorisedError("the SAE is not registered at this node", {"SAE_ID": caller})

    def may_pair(self, master: str, slave: str) -> bool:
        """Tell whether policy lets these two share keys, the first as master."""
        return self.allowed_pairs is None or (master, slave) in self.allowed_pairs

    def _check_slaves(self, caller: str, slaves: tuple[str, ...], request: etsi014.KeyRequest) -> None:
        if caller in slaves:
            raise BadRequestError("an SAE cannot share keys with itself", {"slave_SAE_ID": caller})
        if len(request.additional_slave_SAE_IDs) > self.keys.max_sae_id_count:
            limit = f"at most {self.keys.max_sae_id_count}"
            raise BadRequestError("too many additional slave SAEs", {"additional_slave_SAE_IDs": limit})
        refused = [slave for slave in slaves if not self.may_pair(caller, slave)]
        if refused:
            raise NotAuthorisedError("the policy does not allow this pair of SAEs", {"slave_SAE_ID": refused[0]})

    def _check_size(self, size_bits: int) -> None:
        if size_bits % 8:
            raise BadRequestError(etsi014.SIZE_NOT_MULTIPLE_OF_8, {"size": "a number of bits"})
        if not self.keys.min_key_size <= size_bits <= self.keys.max_key_size:
            bounds = f"{self.keys.min_key_size} to {self.keys.max_key_size} bits"
            raise BadRequestError("size is out of bounds", {"size": bounds})


def _names(options: Iterable[Mapping[str, object]]) -> dict[str, str]:
    return {name: "not supported" for option in options for name in option}
