"""The JSON schema of descriptions, for editors; generated from the model: `python -m topology.schema [--check]`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from topology.model import PROFILES, TestbedDescription

SCHEMA_PATH: Final = Path(__file__).parent / "testbeds" / "schema.json"


def schema_text() -> str:
    """The schema as the file holds it."""
    schema = TestbedDescription.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Testbed description"
    schema["$defs"]["QkdLink"]["properties"]["profile"]["enum"] = sorted(PROFILES)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the schema, or with --check say whether the file is fresh; returns the exit code."""
    if list(arguments) not in ([], ["--check"]):
        print("usage: python -m topology.schema [--check]", file=sys.stderr)
        return 2
    if not arguments:
        SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
        return 0
    fresh = SCHEMA_PATH.is_file() and SCHEMA_PATH.read_text(encoding="utf-8") == schema_text()
    if not fresh:
        print(f"{SCHEMA_PATH.name} is not what the model says: run python -m topology.schema", file=sys.stderr)
    return 0 if fresh else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
