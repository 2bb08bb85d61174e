"""Giving up parcels of this node's own whose acknowledgement did not come in time: their keys are voided."""

from dataclasses import replace

from node.core.federation import Federation
from node.core.keys import Parcel
from node.core.relay import Relay
from node.core.world import World
from node.errors import CannotServeError, StoreError

REASON = "no acknowledgement in time"
PAUSE_S = 1.0


async def give_up_in_time(parcel: Parcel, relay: Relay, federation: Federation, world: World) -> None:
    """Void the keys of a parcel; tried again, until it expires, while the store refuses or no route leads there.

    The acknowledgement may come in the very moment of giving up, and close the books: the keys are voided all the same,
    since whoever waited for them has been told that there are none.
    """
    while world.clock.now() < parcel.expires_at:
        try:
            opened = await world.store.transact(lambda ledger: ledger.parcels_of(parcel.key_ids))
            known = next((one for one in opened.values() if one.parcel_id == parcel.parcel_id), None)
            if known is None:
                next_hop = federation.route_to(parcel.end_to_end.destination).next_hop
                # The request to void needs the IDs only: keys that nobody may use are not written down.
                known = replace(parcel, downstream=next_hop, bodies=tuple(b"" for _ in parcel.bodies))
            return await relay.give_up(known, REASON)
        except (StoreError, CannotServeError):
            await world.clock.sleep(PAUSE_S)
    return None
