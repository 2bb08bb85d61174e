"""The state a node measures before it asks for its data key: its own code, and who it is.

Not measured: figures that an operator may change from one start to the next (pools, time-outs, neighbours).
"""

import hashlib
from pathlib import Path

from node.settings import NodeSettings

PACKAGE = Path(__file__).parent.parent


def measured_state(settings: NodeSettings, package: Path = PACKAGE) -> bytes:
    """Return the SHA-256 digest that goes into the TPM's PCR."""
    state = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in {".py", ".sql"}):
        name, content = str(path.relative_to(package)).encode(), path.read_bytes()
        state.update(b"%d %s %d\n" % (len(name), name, len(content)) + content)
    state.update(f"\n{settings.domain}\n{settings.node}\n".encode())
    return state.digest()
