"""Making requests out of an OpenAPI document: right ones, ones wrong in one respect, and bytes that are nothing.

Everything comes from one seeded generator, so a failure is repeated by its seed; a request is small and printed whole,
so there is nothing to shrink. `words` are strings that mean something to the node, so that values get past the first
check now and then.
"""

import base64
import json
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.hostile.openapi_document import Document, Operation, Schema
from tests.hostile.raw_http import RawRequest

ODD_STRINGS = [
    "",
    " ",
    "\x00",
    "a\r\nX-Injected: 1",
    "\u202e\ufeff\U0001f600",
    "../../etc/passwd",
    "' OR 1=1 --",
    "%00%0a",
    "${jndi:ldap://x}",
    "x" * 65,
    "x" * 5000,
    "NaN",
    "-1",
    "null",
]
ODD_NUMBERS = [0, -1, 1, 7, 2**31, 2**63, 2**64, 10**40, -(10**40), 0.5, -0.0, 1e308, float("inf"), float("nan")]
# Longer ones are the business of the tests of transport.
LONGEST_BODY_BYTES = 1024 * 1024
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND"]
CONTENT_TYPES = [
    "application/json",
    "application/json; charset=utf-8",
    "application/json; charset=utf-16",
    "text/plain",
    "application/xml",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "",
    ";;;",
    "x" * 300,
]


@dataclass
class Fuzzer:
    """Draws requests to one API."""

    document: Document
    words: Sequence[str]
    random: random.Random
    templates: Sequence[tuple[str, Any]] = ()

    def request(self) -> RawRequest:
        """Draw one."""
        operation = self.random.choice(self.document.operations)
        kinds: list[tuple[int, Callable[[Operation], RawRequest]]] = [
            (1, self._right),
            (8, self._wrong_body if operation.body else self._wrong_query),
            (3, self._wrong_bytes if operation.body else self._wrong_query),
            (2, self._wrong_target),
            (1, self._wrong_method),
            (1, self._wrong_type),
        ]
        if self.templates:
            kinds.append((6, lambda _operation: self._spoiled_template()))
        weights, makers = [weight for weight, _ in kinds], [make for _, make in kinds]
        [make] = self.random.choices(makers, weights)
        return make(operation)

    # Kinds of requests.

    def _right(self, operation: Operation) -> RawRequest:
        query = {name: str(self.value(schema)) for name, schema in operation.parameters.items() if self._chance(0.5)}
        body = None if operation.body is None else _dump(self.value(operation.body))
        return self._make(operation.method, self._path(operation), body, query)

    def _wrong_body(self, operation: Operation) -> RawRequest:
        assert operation.body is not None
        value = self.value(operation.body)
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            value = self.spoiled(value)
        return self._make(operation.method, self._path(operation), _dump(value))

    def _wrong_bytes(self, operation: Operation) -> RawRequest:
        assert operation.body is not None
        body = bytearray(_dump(self.value(operation.body)))
        for _ in range(self.random.randint(1, 4)):
            place = self.random.randrange(len(body) + 1)
            junk = self.random.choice((b"\xff\xfe", b"\x00", b"{", b"]", b'"', b"\\u12", b"\xed\xa0\x80", b"[" * 500))
            body[place : place + self.random.choice((0, 1, 9))] = junk
        return self._make(operation.method, self._path(operation), bytes(body))

    def _wrong_query(self, operation: Operation) -> RawRequest:
        names = [*operation.parameters, "x", "number", "size", "key_ID"]
        pairs = [(self.random.choice(names), str(self._odd())) for _ in range(self.random.randint(0, 3))]
        query = "&".join(f"{quote(name)}={quote(text)}" for name, text in pairs)
        if self._chance(0.2):
            query += self.random.choice(("&&&", "%", "%zz", "=", "a=b;c=d", "?" * 20, "%ff=%ff", "x" * 5000))
        return RawRequest(operation.method, f"{self._path(operation)}?{query}")

    def _wrong_target(self, operation: Operation) -> RawRequest:
        path = list(self._path(operation))
        junk = ("%2f", "//", "/..", "%00", "%0d%0a", "%ff", ";", "?", "%", "x" * 500, "/", "%252e", "[", "@")
        place = self.random.randrange(1, len(path) + 1)
        path[place : place + self.random.choice((0, 1, 4))] = self.random.choice(junk)
        body = None if operation.body is None else _dump(self.value(operation.body))
        return self._make(operation.method, "".join(path), body)

    def _wrong_method(self, operation: Operation) -> RawRequest:
        return RawRequest(self.random.choice(METHODS), self._path(operation))

    def _wrong_type(self, operation: Operation) -> RawRequest:
        body = _dump(self.value(operation.body)) if operation.body else b"{}"
        headers = [("Content-Type", self.random.choice(CONTENT_TYPES))]
        if self._chance(0.3):
            headers.append(("Content-Encoding", self.random.choice(("gzip", "br", "identity", "deflate, gzip"))))
        return RawRequest(operation.method, self._path(operation), tuple(headers), body)

    def _spoiled_template(self) -> RawRequest:
        path, value = self.random.choice(self.templates)
        value = json.loads(json.dumps(value))
        for _ in range(self.random.choice((1, 1, 2))):
            value = self.spoiled(value)
        return self._make("POST", path, _dump(value))

    def _make(self, method: str, path: str, body: bytes | None, query: dict[str, str] | None = None) -> RawRequest:
        target = path + ("?" + "&".join(f"{n}={quote(v)}" for n, v in query.items()) if query else "")
        headers = () if body is None else (("Content-Type", "application/json"),)
        return RawRequest(method, target, headers, body)

    def _path(self, operation: Operation) -> str:
        path = operation.path
        while "{" in path:
            before, _, rest = path.partition("{")
            text = str(self._odd()) if self._chance(0.3) else self.random.choice(self.words)
            path = before + (quote(text, safe="") or "x") + rest.partition("}")[2]
        return path

    # Values.

    def value(self, schema: Schema, depth: int = 0) -> Any:
        """Draw a value that fits a schema."""
        schema = self.document.resolve(schema)
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                longest = min(schema.get("maxItems", 3), 3)
                return [self.value(schema["items"], depth + 1) for _ in range(self.random.randint(0, longest))]
            case "integer":
                return self.random.randint(schema.get("minimum", -5), schema.get("maximum", 5000))
            case "number":
                return self.random.uniform(0, 4e9)
            case "boolean":
                return self._chance(0.5)
            case "string":
                return self._string(schema)
        return self._odd()

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        members = {
            name: self.value(member, depth + 1)
            for name, member in schema.get("properties", {}).items()
            if name in required or self._chance(0.4)
        }
        if not members and depth < 4:
            members[self.random.choice(("acme_x", "E32473_other", "x"))] = self._odd()
        return members

    def _string(self, schema: Schema) -> str:
        if schema.get("format") == "uuid":
            return str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        if schema.get("format") == "byte":
            return base64.b64encode(self.random.randbytes(self.random.choice((0, 16, 32, 1088)))).decode()
        return self.random.choice(self.words)[: schema.get("maxLength")]

    def spoiled(self, value: Any) -> Any:
        """Change one place of a value."""
        if isinstance(value, dict) and value and self._chance(0.9):
            name = self.random.choice(list(value))
            match self.random.randrange(6):
                case 0:
                    return {other: member for other, member in value.items() if other != name}
                case 1:
                    return {**value, self.random.choice(ODD_STRINGS): self._odd()}
            return {**value, name: self.spoiled(value[name])}
        if isinstance(value, list) and value and self._chance(0.8):
            place = self.random.randrange(len(value))
            match self.random.randrange(6):
                case 0:
                    return value[:place] + value[place + 1 :]
                case 1:
                    return value * self.random.choice((2, 3, 600))
            return [*value[:place], self.spoiled(value[place]), *value[place + 1 :]]
        if isinstance(value, str) and value and self._chance(0.4):
            place = self.random.randrange(len(value))
            return value[:place] + self.random.choice("0aZ=-_\x00é") + value[place + 1 :]
        return self._odd()

    def _odd(self) -> Any:
        match self.random.randrange(8):
            case 0 | 1:
                return self.random.choice(ODD_STRINGS)
            case 2 | 3:
                return self.random.choice(ODD_NUMBERS)
            case 4:
                return self.random.choice((None, True, False, [], {}, [[]], [None], {"": ""}))
            case 5:
                return self._nested(self.random.choice((3, 30, 300)))
            case 6:
                return self.random.choice(self.words)
        return [self._odd() for _ in range(self.random.choice((1, 2, 9)))]

    def _nested(self, depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value] if self._chance(0.5) else {"x": value}
        return value

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")[:LONGEST_BODY_BYTES]
