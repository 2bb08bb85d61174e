"""An OpenAPI document as far as the fuzzer needs it: operations, schemas, and whether a value fits a schema.

Only what our own documents use of JSON Schema; anything else in one is an error, not a pass.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

FOLDER = Path(__file__).parent / "openapi"
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Schema = dict[str, Any]
_KNOWN = {
    *("$ref", "type", "format", "enum", "required", "properties", "additionalProperties", "items"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@dataclass(frozen=True)
class Operation:
    """One method on one path; `body` and `parameters` are schemas, `answers` by status."""

    method: str
    path: str
    body: Schema | None
    parameters: dict[str, Schema]
    answers: dict[int, Schema | None]


class Document:
    """One document."""

    def __init__(self, name: str) -> None:
        self._root: Schema = YAML(typ="safe", pure=True).load((FOLDER / f"{name}.yaml").read_text())
        self.operations = [
            self._operation(method.upper(), path, description)
            for path, methods in self._root["paths"].items()
            for method, description in methods.items()
        ]

    def resolve(self, schema: Schema) -> Schema:
        """Follow a reference."""
        while "$ref" in schema:
            target: Any = self._root
            for step in schema["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            schema = target
        if unknown := set(schema) - _KNOWN - {"content", "description"}:
            raise ValueError(f"the fuzzer does not know {unknown}")
        return schema

    def misfit(self, value: Any, schema: Schema, place: str = "body") -> str | None:
        """Say where and why a value does not fit, None if it does."""
        schema = self.resolve(schema)
        expected = _TYPES.get(schema.get("type", ""))
        if expected and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
            return f"{place} is no {schema['type']}"
        if "enum" in schema and value not in schema["enum"]:
            return f"{place} is none of {schema['enum']}"
        if schema.get("format") == "uuid" and not UUID.fullmatch(value):
            return f"{place} is no UUID"
        return self._out_of_bounds(value, schema, place) or self._wrong_member(value, schema, place)

    def _out_of_bounds(self, value: Any, schema: Schema, place: str) -> str | None:
        kind = {"string": "Length", "array": "Items", "object": "Properties"}.get(schema.get("type", ""), "imum")
        size = value if kind == "imum" else len(value)
        if not isinstance(size, (int, float)):
            return None
        low, high = schema.get(f"min{kind}", float("-inf")), schema.get(f"max{kind}", float("inf"))
        return None if low <= size <= high else f"{place} is out of bounds: {size}"

    def _wrong_member(self, value: Any, schema: Schema, place: str) -> str | None:
        found = []
        if isinstance(value, list) and "items" in schema:
            found = [self.misfit(entry, schema["items"], f"{place}[{i}]") for i, entry in enumerate(value)]
        elif isinstance(value, dict):
            found = [f"{place}.{name} is missing" for name in schema.get("required", ()) if name not in value]
            other = schema.get("additionalProperties", True)
            for name, member in value.items():
                described = schema.get("properties", {}).get(name, other if isinstance(other, dict) else {})
                found.append(self.misfit(member, described, f"{place}.{name}"))
        return next(filter(None, found), None)

    def _operation(self, method: str, path: str, description: Any) -> Operation:
        parameters = {entry["name"]: entry["schema"] for entry in description.get("parameters", ())}
        body = description.get("requestBody")
        answers = {int(status): self._schema(answer) for status, answer in description["responses"].items()}
        return Operation(method, path, self._schema(body) if body else None, parameters, answers)

    def _schema(self, described: Schema) -> Schema | None:
        content = self.resolve(described).get("content")
        return content["application/json"]["schema"] if content else None
