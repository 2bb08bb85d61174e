"""`python -m node`: read the settings, release the data key, serve until told to stop."""

import asyncio
import ctypes
import gc
import logging
import resource
import signal
import sys
from pathlib import Path

import uvloop
from pydantic import ValidationError

from node.app import Node
from node.crypto.errors import CryptoError
from node.errors import KmstnError, StoreDamagedError, StoreError, StoreForeignError, StoreMissingError
from node.sealing import errors as sealing
from node.sealing.choice import open_sealing
from node.settings import SETTINGS_PATH, NodeSettings

log = logging.getLogger("kmstn")

GC_THRESHOLD = 50_000
OPEN_FILES = 65_536
_PR_SET_DUMPABLE = 4

# What a node that cannot start leaves behind; 1 is anything else. `sealing/README.md` says what to do about each.
EXIT_CODES: dict[type[KmstnError], int] = {
    sealing.SealedKeyMissingError: 10,
    sealing.SealedKeyDamagedError: 11,
    sealing.MeasuredStateChangedError: 12,
    sealing.TpmReplacedError: 13,
    sealing.TpmLockoutError: 14,
    sealing.TpmUnavailableError: 15,
    sealing.RollbackCounterError: 16,
    sealing.StoreRolledBackError: 17,
    StoreMissingError: 20,
    StoreDamagedError: 21,
    StoreForeignError: 22,
    StoreError: 23,
}


async def run(settings: NodeSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with open_sealing(settings) as sealed:
        node = Node(settings, sealed.data_key.reveal(), sealed.description, guard=sealed.guard)
        await node.start()
        # What is there now stays: the collector need not look at it again while keys are waited for.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        await stopped.wait()
        log.info("%s stops", settings.node)
        await node.stop()


def main(path: Path = SETTINGS_PATH) -> int:
    """Return the exit code: 0 when stopped, another when the node could not start, with the reason logged."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    keep_memory_private()
    allow_many_connections()
    try:
        settings = NodeSettings.model_validate_json(path.read_bytes())
        uvloop.run(run(settings))
    except ValidationError as error:
        log.critical("%s: %s", path, error)
    except KmstnError as error:
        log.critical("cannot start: %s", error)
        return EXIT_CODES.get(type(error), 1)
    except (CryptoError, OSError) as error:
        log.critical("cannot start: %s", error)
    else:
        return 0
    return 1


def keep_memory_private() -> None:
    """Have no core dump written, and no other process of the same user read this one's memory: keys are in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core pattern that pipes to a program ignores the limit; it respects this.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE")


def allow_many_connections() -> None:
    """Raise the limit of open files, which bounds connections, as far as allowed and of use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


if __name__ == "__main__":
    sys.exit(main())
