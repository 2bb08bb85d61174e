"""What happened, for people: virtual time, who, what. Keys appear as fingerprints that say nothing about them."""

import asyncio
import hmac
import logging
from contextvars import ContextVar
from hashlib import sha256

# Which simulated machine the running task belongs to.
WHERE: ContextVar[str] = ContextVar("where", default="-")


class Trace:
    """The account of one run; a digest of it is kept always, its lines only when asked for."""

    def __init__(self, seed: int, keep: bool) -> None:
        self.keep = keep
        self.lines: list[str] = []
        self._key = f"kmstn simulation {seed}".encode()
        self._digest = sha256()

    @property
    def digest(self) -> str:
        """The whole run in 16 characters: the same seed gives the same."""
        return self._digest.hexdigest()[:16]

    def say(self, what: str, *values: object, where: str | None = None) -> None:
        """Note what happened now; `values` fill the %s of `what`."""
        now = asyncio.get_running_loop().time()
        at = where or WHERE.get()
        self._digest.update(f"{now:.6f} {at} {what}".encode())
        if self.keep:
            self.lines.append(f"{now:10.4f}  {at:<8} {what % values if values else what}")

    def fingerprint(self, secret: bytes) -> str:
        """Name key bytes without telling them."""
        return hmac.digest(self._key, secret, "sha256").hex()[:10]


class LogCapture(logging.Handler):
    """Sends what the nodes log into the trace, and hands on what they call unexpected."""

    def __init__(self, trace: Trace, unexpected: list[str]) -> None:
        super().__init__(logging.INFO if trace.keep else logging.ERROR)
        self._trace = trace
        self._unexpected = unexpected
        self._logger = logging.getLogger("kmstn")

    def __enter__(self) -> "LogCapture":
        self._before = self._logger.level, self._logger.propagate, self._logger.handlers
        self._logger.setLevel(self.level)
        self._logger.propagate = False
        self._logger.handlers = [self]
        return self

    def __exit__(self, *_exception: object) -> None:
        self._logger.setLevel(self._before[0])
        self._logger.propagate, self._logger.handlers = self._before[1], self._before[2]

    def emit(self, record: logging.LogRecord) -> None:
        """Note one log record."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r} ({_place(record)})"
            self._unexpected.append(f"{WHERE.get()}: {text}")
        if self._trace.keep:
            now = asyncio.get_running_loop().time()
            self._trace.lines.append(f"{now:10.4f}  {WHERE.get():<8} | {record.name}: {text}")


def _place(record: logging.LogRecord) -> str:
    """Name the innermost line of the traceback."""
    traceback = record.exc_info[2] if record.exc_info else None
    place = "?"
    while traceback is not None:
        place = f"{traceback.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
