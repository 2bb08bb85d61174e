"""One HTTP client session per remote service: mutual TLS, kept-alive connections, bounded waits and bodies.

A request is never repeated here: a repeat could be taken for a replay, so repeating is the core's choice.
"""

import ssl
from dataclasses import dataclass

import aiohttp

from node.errors import printable

MAX_ANSWER_BYTES = 4 * 1024 * 1024
KEEP_ALIVE_S = 60
CONNECTIONS = 32
JSON_HEADERS = {"Content-Type": "application/json"}


class ServiceFailure(Exception):
    """No answer, or none that can be read; the text says what happened, in a few words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes


class HttpService:
    """A service at one base URL; `server_name`: what its certificate must carry, where that is not the URL's host."""

    def __init__(
        self, base_url: str, context: ssl.SSLContext, timeout_s: float, server_name: str | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._context = context
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s)
        self._server_name = server_name
        self._session: aiohttp.ClientSession | None = None

    async def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send one request; raises ServiceFailure."""
        headers = JSON_HEADERS if body is not None else None
        try:
            async with self._opened().request(
                method,
                self.base_url + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as answer:
                return Answer(answer.status, await _bounded(answer))
        except TimeoutError:
            raise ServiceFailure(f"no answer within {self._timeout.total:g} s") from None
        except aiohttp.ClientError as error:
            raise ServiceFailure(_in_words(error)) from error
        except (OSError, ValueError) as error:
            # What aiohttp lets through of broken connections, and of answers that are no HTTP.
            raise ServiceFailure(printable(f"{type(error).__name__}: {error}", 200)) from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._context, limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S, use_dns_cache=True
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(65536):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ServiceFailure(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _in_words(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    return printable(f"{type(error).__name__}: {error}", 200)
