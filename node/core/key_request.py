"""What an SAE may ask for: the checks of a Get key request against figures and policy. Pure.

ETSI GS QKD 014 prescribes some messages letter for letter; those come from `wire.etsi014`.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from node.core.demands import NO_DEMANDS, Demands, demands_of
from node.errors import BadRequestError, NotAuthorisedError
from node.settings import KeySettings, SaeId
from node.wire import etsi014

NO_SAE_ID = "not an SAE ID"

_SAE_ID: TypeAdapter[str] = TypeAdapter(SaeId)


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """A request that is in order. Size in bits."""

    master_sae: str
    slave_saes: tuple[str, ...]
    number: int
    size_bits: int
    demands: Demands = NO_DEMANDS


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may ask for keys at this node, and with whom."""

    saes: frozenset[str]
    allowed_pairs: frozenset[tuple[str, str]] | None
    keys: KeySettings

    def order(self, caller: str, slave_sae: str, request: etsi014.KeyRequest) -> KeyOrder:
        """Check a Get key request; raises NotAuthorisedError or BadRequestError, and nothing has happened then."""
        additional = request.additional_slave_SAE_IDs
        self.check_pair(caller, slave_sae)
        if additional:
            self._check_additional(caller, slave_sae, additional)
        size_bits = self.keys.key_size if request.size is None else request.size
        self._check_size(size_bits)
        self._check_number(request.number, size_bits)
        demands = NO_DEMANDS
        if request.extension_mandatory or request.extension_optional:
            demands = demands_of(request)
        return KeyOrder(caller, (slave_sae, *additional), request.number, size_bits, demands)

    def admit(self, caller: str) -> None:
        """Check that the caller is registered at this node; raises NotAuthorisedError."""
        if caller not in self.saes:
            raise NotAuthorisedError("the SAE is not registered at this node", {"SAE_ID": caller})

    def check_pair(self, caller: str, slave: str) -> None:
        """Check that the caller may ask for keys with this slave; raises NotAuthorisedError or BadRequestError."""
        self.admit(caller)
        if caller == slave:
            raise BadRequestError("an SAE cannot share keys with itself", {"slave_SAE_ID": caller})
        if not self.may_pair(caller, slave):
            raise NotAuthorisedError("the policy does not allow this pair of SAEs", {"slave_SAE_ID": slave})

    def may_pair(self, master: str, slave: str) -> bool:
        """Tell whether policy lets these two share keys, the first as master."""
        return self.allowed_pairs is None or (master, slave) in self.allowed_pairs

    def _check_additional(self, caller: str, slave_sae: str, additional: tuple[str, ...]) -> None:
        if len(additional) > self.keys.max_sae_id_count:
            limit = f"at most {self.keys.max_sae_id_count}"
            raise BadRequestError("too many additional slave SAEs", {"additional_slave_SAE_IDs": limit})
        named = {slave_sae}
        for index, slave in enumerate(additional):
            check_sae_id(f"additional_slave_SAE_IDs.{index}", slave)
            if slave in named:
                raise BadRequestError("a slave SAE is listed twice", {"additional_slave_SAE_IDs": slave})
            self.check_pair(caller, slave)
            named.add(slave)

    def _check_size(self, size_bits: int) -> None:
        if size_bits % 8:
            raise BadRequestError(etsi014.SIZE_NOT_MULTIPLE_OF_8, {"size": "a number of bits"})
        if not self.keys.min_key_size <= size_bits <= self.keys.max_key_size:
            bounds = f"{self.keys.min_key_size} to {self.keys.max_key_size} bits"
            raise BadRequestError("size is out of bounds", {"size": bounds})

    def _check_number(self, number: int, size_bits: int) -> None:
        if not 1 <= number <= self.keys.max_key_per_request:
            raise BadRequestError("number is out of bounds", {"number": f"1 to {self.keys.max_key_per_request}"})
        if number * size_bits > (limit := self.keys.max_bits_per_request):
            wrong = f"at most {limit // size_bits} keys of {size_bits} bits, {limit} bits together"
            raise BadRequestError("number and size are too much for one request", {"number": wrong})


def check_sae_id(where: str, sae: str) -> None:
    """Check that this can be an ID at all, so that nothing longer is looked up or quoted; raises BadRequestError."""
    try:
        _SAE_ID.validate_python(sae)
    except ValidationError:
        wrong = "1 to 64 of the characters that RFC 3986 allows in a URI"
        raise BadRequestError(NO_SAE_ID, {where: wrong}) from None
