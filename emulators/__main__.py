"""`python -m emulators [SETTINGS]`: run one emulated QKD device."""

import logging
import sys
from pathlib import Path

import uvloop

from emulators.app import load_settings, run
from emulators.settings import SETTINGS_PATH


def main() -> None:
    """Run the device that the settings file describes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvloop.run(run(load_settings(Path(sys.argv[1]) if len(sys.argv) > 1 else SETTINGS_PATH)))


if __name__ == "__main__":
    main()
