"""A process to be killed: `python spending_worker.py FOLDER` spends link keys on parcels until it dies.

Each piece of work takes one link key and stores, in the same transaction, the parcel that this key protects; the key's
ID is printed once the store has confirmed it. Several are under way at once, so that they share commits.
"""

import asyncio
import sys
from pathlib import Path

from node.core.ports import Ledger
from tests.unit.storage.small_stores import LINK, opened, parcel

AT_ONCE = 4


def spend(ledger: Ledger) -> str | None:
    """Take a link key and keep the parcel that is named after it."""
    taken = ledger.take_link_keys(LINK, 1, 0)
    if taken is None:
        return None
    key_id = taken[0].key_id
    ledger.add_parcel(parcel(f"parcel-{key_id}", (key_id,)))
    return key_id


async def main(folder: Path) -> None:
    """Spend until the stock is empty."""
    async with opened(folder) as store:
        print("begun", flush=True)

        async def go_on() -> None:
            while (key_id := await store.transact(spend)) is not None:
                print(key_id, flush=True)

        await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
