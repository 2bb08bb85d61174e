"""`python -m node.sealing.lockout`: keep the TPM of a node that does not start running until it is out of lockout."""

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from node.sealing.choice import TPM_DIRECTORY
from node.sealing.errors import SealingError
from node.sealing.swtpm import SoftwareTpm, running_swtpm
from node.settings import SETTINGS_PATH, NodeSettings

if TYPE_CHECKING:
    from node.sealing.tpm_commands import Lockout

log = logging.getLogger("kmstn.sealing")

POLL_INTERVAL_S = 5.0


def main(path: Path = SETTINGS_PATH, poll_interval_s: float = POLL_INTERVAL_S) -> int:
    """Return 0 once the TPM is not in lockout, 1 if it cannot be asked."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = NodeSettings.model_validate_json(path.read_bytes())
    try:
        with running_swtpm(settings.state_dir / TPM_DIRECTORY, may_make=False) as swtpm:
            while (lockout := _asked(swtpm)).locked:
                log.warning("in lockout: %d failures, one less every %d s", lockout.failures, lockout.interval_s)
                time.sleep(poll_interval_s)
    except SealingError as error:
        log.critical("%s", error)
        return 1
    log.info("the TPM is not in lockout; failures %d of %d", lockout.failures, lockout.limit)
    return 0


def _asked(swtpm: SoftwareTpm) -> "Lockout":
    # The TPM stack is in the node image only.
    from node.sealing.tpm_commands import Tpm

    with swtpm.conversation() as tcti, Tpm(tcti) as tpm:
        return tpm.lockout()


if __name__ == "__main__":
    sys.exit(main())
