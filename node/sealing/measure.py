"""The state a node measures before it asks for its data key: its own code, and who it is.

Not measured: figures that an operator may change from one start to the next (pools, time-outs, neighbours).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from node.settings import NodeSettings

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class MeasuredState:
    """What was measured; `software` is a SHA-256 digest in hex, `identity` is domain/node."""

    software: str
    identity: str

    @property
    def digest(self) -> bytes:
        """The SHA-256 digest that goes into the TPM's PCR."""
        return hashlib.sha256(f"{self.software}\n{self.identity}\n".encode()).digest()


def measured_state(settings: NodeSettings, package: Path = PACKAGE) -> MeasuredState:
    """Measure this node."""
    code = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in {".py", ".sql"}):
        name, content = str(path.relative_to(package)).encode(), path.read_bytes()
        code.update(b"%d %s %d\n" % (len(name), name, len(content)) + content)
    return MeasuredState(code.hexdigest(), f"{settings.domain}/{settings.node}")
