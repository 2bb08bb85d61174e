"""What this machine keeps of a testbed between commands: `.testbeds/<name>/` in the project's folder.

There lie the description it was started from, the choices that must not change while it lives (subnet, host ports, the
time its fibres were lit), its PKI, and its plan for people to read. Private keys are in there: nobody else may enter.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

from topology.errors import UnknownName
from topology.images import PROJECT_ROOT
from topology.naming import is_testbed_name
from topology.plan import Plan, plain

STATE_ROOT = PROJECT_ROOT / ".testbeds"


@dataclass(frozen=True)
class Choices:
    """What was chosen once for a testbed: Unix time, a network in CIDR notation, host port by listener."""

    lit_at: float
    subnet: str
    host_ports: Mapping[str, int]

    @property
    def subnet_base(self) -> IPv4Network:
        """The network that all subnets are cut from."""
        return IPv4Network(self.subnet)


class StateFolder:
    """The state of one testbed; exists on disk from the first `up` to the `down`."""

    def __init__(self, name: str, root: Path = STATE_ROOT) -> None:
        if not is_testbed_name(name):
            raise UnknownName("testbed", name, names_kept(root))
        self.path = root / name

    @property
    def description(self) -> Path:
        """The copy of the description."""
        return self.path / "description.yaml"

    @property
    def pki(self) -> Path:
        """Where certificates, keys and fibre seeds are."""
        return self.path / "pki"

    def choices(self) -> Choices | None:
        """What was chosen before; None when nothing (readable) is there."""
        try:
            return Choices(**json.loads((self.path / "choices.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, choices: Choices, description: Path, plan: Plan) -> None:
        """Write everything but the PKI; each file appears whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        _write(self.description, description.read_text())
        _write(self.path / "plan.json", json.dumps(plain(plan), indent=1))
        _write(self.path / "choices.json", json.dumps(asdict(choices), indent=1))

    def remove(self) -> None:
        """Forget the testbed."""
        shutil.rmtree(self.path, ignore_errors=True)


def names_kept(root: Path = STATE_ROOT) -> list[str]:
    """The testbeds that this machine keeps state of."""
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.touch(mode=0o600)
    draft.write_text(text)
    os.replace(draft, path)
