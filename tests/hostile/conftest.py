"""One federation per module, with short waits, and a check that no test leaves an unexpected failure in the log."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.hostile.hostile_federation import HostileFederation


class Alarms(logging.Handler):
    """Keeps what must not be logged: tracebacks, and lines that bring others with them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.raised: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        line.encode()
        if record.exc_info is not None or "\n" in line or "\r" in line:
            self.raised.append(self.format(record)[-3000:])


@pytest.fixture(autouse=True)
def alarms() -> Iterator[Alarms]:
    """Fail the test that makes a node log a traceback or a line break."""
    handler, root = Alarms(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)
    assert handler.raised == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HostileFederation]:
    """Three nodes and a QKD link, as others see them."""
    root: Path = tmp_path_factory.mktemp("federation")
    started = HostileFederation(root)
    async with started:
        yield started
