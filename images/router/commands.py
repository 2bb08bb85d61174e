"""Running `ip`, `tc` and `iptables`, with their refusals as one exception."""

import subprocess
from collections.abc import Sequence

# None of these commands waits for anything but the kernel.
_TIMEOUT_S = 10.0


class CommandRefused(Exception):
    """A command that failed: what was run, and what it said on standard error."""

    def __init__(self, arguments: Sequence[str], stderr: str) -> None:
        super().__init__(f"`{' '.join(arguments)}`: {stderr.strip() or 'failed in silence'}")
        self.stderr = stderr


def run(arguments: Sequence[str], stdin: str = "") -> str:
    """Run a command and return its standard output; raises CommandRefused, also when the program is missing."""
    try:
        done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as missing:
        raise CommandRefused(arguments, f"{missing.filename} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise CommandRefused(arguments, f"no end within {_TIMEOUT_S:g} s") from late
    if done.returncode:
        raise CommandRefused(arguments, done.stderr)
    return done.stdout
