"""`python -m node`: read the settings, release the data key, serve until told to stop."""

import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

import uvloop
from pydantic import ValidationError

from node.app import Node
from node.errors import KmstnError
from node.sealing.choice import open_sealing
from node.sealing.errors import SealingError
from node.settings import SETTINGS_PATH, NodeSettings

log = logging.getLogger("kmstn")

GC_THRESHOLD = 50_000


async def run(settings: NodeSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with open_sealing(settings) as sealing:
        node = Node(settings, sealing.data_key.reveal(), sealing.description)
        await node.start()
        # What is there now stays: the collector need not look at it again while keys are waited for.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        await stopped.wait()
        log.info("%s stops", settings.node)
        await node.stop()


def main(path: Path = SETTINGS_PATH) -> int:
    """Return the exit code: 0 when stopped, 1 when the node could not start, with the reason logged."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = NodeSettings.model_validate_json(path.read_bytes())
        uvloop.run(run(settings))
    except ValidationError as error:
        log.critical("%s: %s", path, error)
    except (KmstnError, SealingError, OSError) as error:
        log.critical("cannot start: %s", error)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
