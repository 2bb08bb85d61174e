"""Testbeds of real containers, driven by the same commands that people type."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
TIMEOUT_S = 900


@dataclass(frozen=True)
class Command:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


def run(*arguments: str, timeout_s: float = TIMEOUT_S) -> Command:
    """Run a command of this machine to its end."""
    environment = {**os.environ, "CI": "true"}
    done = subprocess.run(
        arguments, cwd=PROJECT, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
    )
    return Command(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Bed:
    """A testbed by name."""

    name: str
    file: str

    def invoke(self, task: str, *arguments: str, name: bool = True) -> Command:
        """Run a task for this testbed."""
        naming = ("--name", self.name) if name else ()
        return run(sys.executable, "-m", "invoke", task, *arguments, *naming)

    def up(self) -> Command:
        """Bring it up."""
        return self.invoke("up", "--file", self.file, "--json")

    def docker(self, *arguments: str) -> str:
        """Run the docker command, which must succeed."""
        done = run("docker", *arguments)
        assert done.code == 0, done.stderr
        return done.stdout

    def container(self, plain_name: str) -> str:
        """The full name of a container."""
        return f"{self.name}-{plain_name}"

    def ids(self) -> dict[str, str]:
        """The ID of each container of this testbed, by name."""
        lines = self.docker("ps", "-a", "--no-trunc", "--filter", self.label, "--format", "{{.Names}} {{.ID}}")
        return dict(line.split() for line in lines.splitlines())

    @property
    def label(self) -> str:
        """Docker's filter for all that belongs to it."""
        return f"label=kmstn.testbed={self.name}"

    def left_over(self) -> list[str]:
        """Everything of it that Docker still has."""
        return [
            *self.docker("ps", "-aq", "--filter", self.label).split(),
            *self.docker("network", "ls", "-q", "--filter", self.label).split(),
            *self.docker("volume", "ls", "-q", "--filter", self.label).split(),
        ]


def _up(name: str, file: str) -> Iterator[Bed]:
    bed = Bed(name, file)
    bed.invoke("down")
    started = bed.up()
    try:
        assert started.code == 0, started.stderr
        yield bed
    finally:
        bed.invoke("down")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Bed]:
    """The smallest testbed, brought up."""
    yield from _up("test-two", "two-nodes")


@pytest.fixture(scope="module")
def three_regions() -> Iterator[Bed]:
    """The default testbed, brought up."""
    yield from _up("test-three", "three-regions")
