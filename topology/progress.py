"""What people and programs see: progress on stderr, the report on stdout.

On a terminal the current step spins; elsewhere (a pipe, CI) every step is one plain line. With JSON wanted, stdout
carries exactly one document.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

# An image that builds for long shows a sign of life in plain output as often as this.
PLAIN_HEARTBEAT_S = 15.0


class Progress:
    """Tells what is being done; safe to call from several threads."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._lively = self._console.is_terminal and not os.environ.get("CI")
        self._told_at: dict[str, float] = {}
        self._building: dict[str, str] = {}
        self._lock = threading.Lock()
        self._show = None if not self._lively else self._console.status("")

    def say(self, line: str) -> None:
        """Print one line for good."""
        self._console.print(line)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Name what is under way, and print how long it took."""
        started = time.monotonic()
        if self._show:
            self._show.update(title)
            self._show.start()
        outcome = "failed after "
        try:
            yield
            outcome = ""
        finally:
            if self._show:
                self._show.stop()
            self.say(f"  {title}: {outcome}{time.monotonic() - started:.1f} s")

    def image(self, role: str, state: str, seconds: float, line: str) -> None:
        """Tell how the building of an image goes; the callback of `topology.images.ensure_images`."""
        if state == "cached":
            return
        if state == "done":
            self._building.pop(role, None)
            self.say(f"  image {role}: {seconds:.1f} s")
            return
        self._building[role] = f"{role} {seconds:.0f} s: {line[:70]}"
        if self._show:
            self._show.update("images: " + " | ".join(self._building.values()))
        elif self._due(role):
            self.say(f"  image {role}: {seconds:.0f} s, {line[:90]}")

    def _due(self, role: str) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._told_at.get(role, 0.0) < PLAIN_HEARTBEAT_S:
                return False
            self._told_at[role] = now
            return True


def print_json(document: object) -> None:
    """Write the one JSON document of a report to stdout."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def report_console() -> Console:
    """The console for a report that people read, on stdout."""
    return Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
