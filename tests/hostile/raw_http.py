"""A client that puts any bytes on a TLS connection, and reads what HTTP/1.1 answers there are."""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# No wait of a hostile test is longer; what takes this long hangs.
PATIENCE_S = 20.0


@dataclass(frozen=True)
class RawRequest:
    """One request, spelled out."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost", *(f"{n}: {v}" for n, v in self.headers)]
        if self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")


@dataclass(frozen=True)
class RawAnswer:
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class ClosedError(ConnectionError):
    """The server closed the connection before it answered."""


class RawConnection:
    """One TLS connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> "RawConnection":
        opening = asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        return cls(*await asyncio.wait_for(opening, PATIENCE_S))

    async def __aenter__(self) -> "RawConnection":
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection, without waiting for anything."""
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send; raises ConnectionError when the server has closed."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), PATIENCE_S)

    async def send_slowly(self, pieces: Iterable[bytes], pause_s: float) -> int:
        """Send piece by piece until the server closes; returns how many went out."""
        sent = 0
        for piece in pieces:
            if self.reader.at_eof():
                break
            try:
                await self.send(piece)
            except ConnectionError:
                break
            sent += 1
            await asyncio.sleep(pause_s)
        return sent

    async def answer(self, method: str = "GET") -> RawAnswer:
        """Read one answer; raises ClosedError if there is none."""
        try:
            return await asyncio.wait_for(self._answer(method), PATIENCE_S)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as error:
            raise ClosedError(str(error)) from error

    async def closed(self) -> bytes:
        """Read until the server closes, within the patience; returns what came before."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except (ConnectionError, ssl.SSLError):
            return b""

    async def _answer(self, method: str) -> RawAnswer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(status_line.split(" ")[1])
        length = 0 if method == "HEAD" else int(headers["content-length"])
        return RawAnswer(status, headers, await self.reader.readexactly(length))


class RawClient:
    """Sends requests over one kept-alive connection, and opens another when the server closed it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port, self._context = port, context
        self._connection: RawConnection | None = None

    async def ask(self, request: RawRequest) -> RawAnswer:
        """Send one request, read its answer; a kept connection may have been closed meanwhile, a new one may not."""
        if self._connection is not None and (self._connection.reader.at_eof() or self._connection.reader.exception()):
            self.close()
        if self._connection is None:
            self._connection = await RawConnection.open(self._port, self._context)
        await self._connection.send(request.encode())
        answer = await self._connection.answer(request.method)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def as_json(**members: Any) -> tuple[tuple[str, str], ...]:
    """Return the header of a JSON body, and others."""
    return (("Content-Type", "application/json"), *members.items())
