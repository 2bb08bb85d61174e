"""What can go wrong while a testbed is run, by whose affair it is; every message is for the person at the terminal.

    TestbedError
    +-- EngineError            the Docker daemon refused something
    |   +-- EngineUnreachable  there is no daemon to ask, or it may not be asked
    |   +-- NotThere           it has no container, network, volume or image of that name
    +-- SubnetClash            an address range is somebody else's
    +-- NotReady               a wait ended before what was waited for; quotes the last log lines
    +-- UnknownName            no testbed, container, site or SAE of that name
    +-- ApiRefused             a node answered a request with an error
Faults of a description are `topology.load.DescriptionError`, of an image `topology.images.ImageBuildError`.
"""

import difflib
from collections.abc import Iterable


class TestbedError(Exception):
    """Something asked of a testbed did not come about; the message says what, and what to do."""

    __test__ = False  # pytest takes every class named Test* for a collection of tests.


class EngineError(TestbedError):
    """The Docker daemon refused; the message is its own."""


class EngineUnreachable(EngineError):
    """No daemon answers: `problem` says why, `remedy` is what to do about it."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}\n  {remedy}")


class NotThere(EngineError):
    """The daemon has nothing of that name."""


class SubnetClash(TestbedError):
    """A subnet that is wanted overlaps another; the message names its owner."""


class NotReady(TestbedError):
    """Something was waited for in vain."""


class UnknownName(TestbedError):
    """A name that nothing has; the message lists what there is."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        there_are = f" There are: {', '.join(names)}." if names else " There is none."
        super().__init__(f"no {what} named {name!r}.{meant}{there_are}")


class ApiRefused(TestbedError):
    """A node's API answered with an error status."""

    def __init__(self, what: str, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{what}: {status} {message}".rstrip())
