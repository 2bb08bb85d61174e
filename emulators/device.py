"""What one end of a QKD link decides: how much key it has, what it hands out, and what it refuses.

No I/O and no clock: times come in as Unix seconds, and whoever calls makes the new position durable before the keys
leave (`Position`, indices fetched). How keys come about is `fibre`'s matter, how requests arrive `etsi014_api`'s.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emulators.fibre import Direction, Fibre, FibreKey
from emulators.settings import EmulatedDeviceSettings, ProfileSettings
from node.mutual_tls.identity import Identity, Role
from node.wire import etsi014


class DeviceRefusalError(Exception):
    """The device does not do it; nothing has changed."""


class NotAllowedError(DeviceRefusalError):
    """The caller is not the node beside the device, or asks for keys with somebody else than the node opposite."""


class UnfitRequestError(DeviceRefusalError):
    """The request is well formed, but not one this device can meet."""


class StoreEmptyError(DeviceRefusalError):
    """Less key is in store than was asked for."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the device has come in handing out its sending direction.

    `stock_keys` were in store at `as_of`; the fraction is a key that is still being distilled.
    """

    next_index: int
    stock_keys: float
    as_of: float

    def at(self, now: float, profile: ProfileSettings) -> "Position":
        """Let the fibre work until `now`; a clock that went backwards produces nothing."""
        # The link's secret key rate is shared by its two directions.
        produced = max(0.0, now - self.as_of) * profile.secret_key_rate_bps / 2 / profile.key_size
        stock = min(self.stock_keys + produced, float(profile.storage_keys))
        return Position(self.next_index, stock, max(now, self.as_of))


def first_position(settings: EmulatedDeviceSettings) -> Position:
    """Say where a device starts that has never run before."""
    stock = min(settings.profile.initial_keys, settings.profile.storage_keys)
    return Position(0, float(stock), settings.lit_at)


class Device:
    """One end of a link, between two restarts."""

    def __init__(
        self, settings: EmulatedDeviceSettings, fibre: Fibre, position: Position, fetched: Iterable[int]
    ) -> None:
        self._settings = settings
        self._profile = settings.profile
        self._fibre = fibre
        self._sending, self._receiving = (
            (Direction.A_TO_B, Direction.B_TO_A) if settings.end == "a" else (Direction.B_TO_A, Direction.A_TO_B)
        )
        self._position = position
        self._fetched = set(fetched)
        self._highest = max(self._fetched, default=0)

    def admit(self, caller: Identity, opposite: str) -> None:
        """Accept only the node beside the device, on keys with the node opposite; raises NotAllowedError."""
        beside = Identity(self._settings.domain, Role.NODE, self._settings.node)
        if caller != beside:
            raise NotAllowedError(f"{caller} is not {beside}")
        if opposite != self._settings.peer_node:
            raise NotAllowedError(f"this link leads to {self._settings.peer_node}, not to {opposite}")

    def status(self, now: float) -> etsi014.Status:
        """Describe the sending direction (table 9)."""
        self._position = self._position.at(now, self._profile)
        return etsi014.Status(
            source_KME_ID=self._settings.device,
            target_KME_ID=self._settings.peer_device,
            master_SAE_ID=self._settings.node,
            slave_SAE_ID=self._settings.peer_node,
            key_size=self._profile.key_size,
            stored_key_count=int(self._position.stock_keys),
            max_key_count=self._profile.storage_keys,
            max_key_per_request=self._profile.max_keys_per_request,
            max_key_size=self._profile.key_size,
            min_key_size=self._profile.key_size,
            max_SAE_ID_count=0,
        )

    def hand_out(self, request: etsi014.KeyRequest, now: float) -> tuple[Position, list[FibreKey]]:
        """Take fresh keys from the store; raises UnfitRequestError, StoreEmptyError.

        The keys may leave only when the returned position is durable.
        """
        self._check(request)
        before = self._position.at(now, self._profile)
        if request.number > before.stock_keys:
            raise StoreEmptyError(f"{request.number} keys requested, {int(before.stock_keys)} in store")
        end = before.next_index + request.number
        self._position = Position(end, before.stock_keys - request.number, before.as_of)
        return self._position, self._keys(self._sending, range(before.next_index, end))

    def fetch(self, key_ids: Sequence[str]) -> tuple[list[int], list[FibreKey]]:
        """Give the named keys, each once in its life, all or none; raises UnfitRequestError.

        The keys may leave only when the returned indices are durable. A key is dropped unfetched when as many newer
        ones as the store holds have come after it.
        """
        if len(key_ids) > self._profile.max_keys_per_request:
            raise UnfitRequestError(f"at most {self._profile.max_keys_per_request} keys per request")
        found = [index for key_id in key_ids if (index := self._fibre.index(self._receiving, key_id)) is not None]
        oldest = self._highest - self._profile.storage_keys
        unused = {index for index in found if index > oldest and index not in self._fetched}
        if len(unused) != len(key_ids):
            raise UnfitRequestError(etsi014.KEYS_NOT_FOUND)
        self._fetched |= unused
        self._highest = max(self._highest, *found)
        self._forget_dropped()
        return found, self._keys(self._receiving, found)

    @property
    def oldest_kept(self) -> int:
        """Indices below this one are refused without looking: no need to remember that they were fetched."""
        return self._highest - self._profile.storage_keys

    def _check(self, request: etsi014.KeyRequest) -> None:
        size = self._profile.key_size
        if request.size is not None and request.size % 8:
            raise UnfitRequestError(etsi014.SIZE_NOT_MULTIPLE_OF_8)
        if request.size not in (None, size):
            raise UnfitRequestError(f"size shall be {size}")
        if request.number > self._profile.max_keys_per_request:
            raise UnfitRequestError(f"number shall be at most {self._profile.max_keys_per_request}")
        if request.additional_slave_SAE_IDs:
            raise UnfitRequestError("additional_slave_SAE_IDs shall be empty, max_SAE_ID_count is 0")
        if request.extension_mandatory:
            raise UnfitRequestError(etsi014.MANDATORY_NOT_SUPPORTED)

    def _keys(self, direction: Direction, indices: Iterable[int]) -> list[FibreKey]:
        return [self._fibre.key(direction, index, self._profile.key_size) for index in indices]

    def _forget_dropped(self) -> None:
        # Twice the window before sweeping, so that the sweep's cost is spread over as many fetches.
        if len(self._fetched) > 2 * self._profile.storage_keys:
            self._fetched = {index for index in self._fetched if index > self.oldest_kept}
