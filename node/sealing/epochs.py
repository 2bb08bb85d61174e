"""Counting the store's epochs while a node runs: how old a copy of the store can be and still pass for new."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from node.errors import StoreError
from node.sealing.errors import RollbackCounterError, SealingError, StoreRolledBackError
from node.storage.database import Database

log = logging.getLogger("kmstn.sealing")


class SaysWhy(Protocol):
    """Where it says what the TPM did not do: the node's health."""

    tpm_failure: str | None


async def keep_epochs(
    store: Database, interval_s: float, sleep: Callable[[float], Awaitable[None]], health: SaysWhy
) -> None:
    """Begin an epoch in each interval, for ever; the interval bounds the wear of the TPM's NV memory too.

    A TPM that fails, or whatever else, leaves the node serving, which needs the TPM at its start only, and unhealthy,
    and is tried again. A counter that says that this is not the newest store ends its service.
    """
    while True:
        await sleep(interval_s)
        try:
            await store.next_epoch()
            health.tpm_failure = None
        except (StoreRolledBackError, RollbackCounterError) as error:
            store.give_up(str(error))
            return
        except SealingError as error:
            log.error("copies of the store pass for new since the last epoch: %s", error)
            health.tpm_failure = f"rollback protection stands still: {error}"
        except StoreError as error:
            log.error("no new epoch: %s", error)
        except Exception as error:
            log.exception("copies of the store pass for new since the last epoch")
            health.tpm_failure = f"rollback protection stands still: {error}"
