"""The schema for editors: fresh, and it knows every key that the testbeds of the project use."""

import json
from pathlib import Path

import pytest

from topology import schema
from topology.model import TestbedDescription


def test_the_schema_in_the_repository_is_fresh() -> None:
    assert schema.main(["--check"]) == 0


def test_a_stale_schema_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA_PATH", tmp_path / "schema.json")
    assert schema.main(["--check"]) == 1
    assert schema.main([]) == 0
    assert schema.main(["--check"]) == 0
    (tmp_path / "schema.json").write_text("{}")
    assert schema.main(["--check"]) == 1


def test_an_unknown_argument_is_refused() -> None:
    assert schema.main(["--chek"]) == 2


def test_the_schema_refuses_unknown_keys_as_the_model_does() -> None:
    document = json.loads(schema.schema_text())
    parts = [document, *document["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in parts)
    assert set(document["properties"]) == set(TestbedDescription.model_fields)


@pytest.mark.parametrize("testbed", ["three-regions", "two-nodes"])
def test_a_testbed_tells_editors_about_the_schema(testbed: str) -> None:
    text = (schema.SCHEMA_PATH.parent / f"{testbed}.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
