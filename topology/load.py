"""Read a testbed description from a YAML file; whatever is wrong with it is said all at once, each with its place.

What counts as wrong is decided in `topology.model` (shape, units) and `topology.checks` (sense).
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from topology.checks import Problem, closest, find_problems
from topology.model import TestbedDescription, part_at
from topology.yaml_places import Place, PlacedYaml, YamlTextError, read_yaml

LARGEST_FILE_BYTES: Final = 1_000_000
# Stands in for a required value that was wrong, so that the rest can still be checked.
STAND_INS: Final = {"fibre_km": 1, "delay": "1 ms"}
# Keys that hold names which other parts refer to: without them, every reference would look wrong.
BEARING: Final = {"regions", "sites", "saes", "qkd_links", "node", "between"}
_EXPECTATIONS: Final = {
    "string_type": "expected text",
    "dict_type": "expected keys with values",
    "model_type": "expected keys with values",
    "model_attributes_type": "expected keys with values",
    "list_type": "expected a list",
    "int_type": "expected a whole number",
}


@dataclass(frozen=True, order=True)
class Finding:
    """One fault of a description; as text, one line that an editor can jump to. Line and column are 1-based."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class DescriptionError(Exception):
    """A description that cannot be used: `findings` is everything that is wrong with it, in the file's order."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(set(findings)))
        super().__init__("\n".join(str(finding) for finding in self.findings))


def load_description(path: Path) -> TestbedDescription:
    """Read and check the description in a file; raises DescriptionError."""
    return parse_description(_read_text(path), str(path))


def parse_description(text: str, file: str) -> TestbedDescription:
    """Check a description given as text, naming `file` in what is wrong with it; raises DescriptionError."""
    try:
        placed = read_yaml(text)
    except YamlTextError as error:
        raise DescriptionError([Finding(file, *error.place, error.message)]) from error
    if not isinstance(placed.value, dict):
        told = "the file is empty" if placed.value is None else "expected keys with values at the top, like testbed:"
        raise DescriptionError([Finding(file, *placed.place((), on_key=False), told)])
    description, problems = _validate(placed.value)
    findings = [_finding(file, placed, problem) for problem in problems]
    findings += [_repeated(file, path, place) for path, place in placed.repeated]
    if findings or description is None:
        raise DescriptionError(findings)
    return description


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        near = closest(path.name, [f.name for f in path.parent.glob("*.yaml")] if path.parent.is_dir() else [])
        raise _whole_file(path, "there is no such file" + _hint(near)) from error
    except IsADirectoryError as error:
        raise _whole_file(path, "this is a folder, not a file") from error
    except OSError as error:
        raise _whole_file(path, f"cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_FILE_BYTES:
        raise _whole_file(path, f"larger than {LARGEST_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        found = Finding(str(path), line, column, f"byte 0x{data[error.start]:02x} is not UTF-8 text")
        raise DescriptionError([found]) from error


def _whole_file(path: Path, message: str) -> DescriptionError:
    return DescriptionError([Finding(str(path), 1, 1, message)])


def _validate(value: dict[Any, Any]) -> tuple[TestbedDescription | None, list[Problem]]:
    try:
        description = TestbedDescription.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        mended = _mend(value, errors)
        problems = _without_echoes([_problem(value, details) for details in errors])
        return None, problems + (find_problems(mended, reachability=False) if mended else [])
    return description, find_problems(description)


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """A misspelt key is one fault: that the key it stands for is missing goes without saying."""
    echoes = {(p.path[:-1], f'"{p.suggestion}" is missing') for p in problems if p.message.startswith("unknown key")}
    return [problem for problem in problems if (problem.path, problem.message) not in echoes]


def _mend(value: dict[Any, Any], errors: list[ErrorDetails]) -> TestbedDescription | None:
    """Leave out what has the wrong shape, so that the rest can be checked; None when too much would be missing."""
    mended = deepcopy(value)
    for details in errors:
        path = _path_in(value, details["loc"])
        if details["type"] == "missing":
            path = (*path, details["loc"][-1])
        if not _mend_one(mended, path, unknown=details["type"] == "extra_forbidden"):
            return None
    try:
        return TestbedDescription.model_validate(mended)
    except ValidationError:
        return None


def _mend_one(mended: Any, path: tuple[int | str, ...], *, unknown: bool) -> bool:
    if not path:
        return False
    fields = part_at(path).model_fields
    last = str(path[-1])
    for step in path[:-1]:
        mended = mended[step]
    if last in STAND_INS:
        mended[last] = STAND_INS[last]
    elif unknown and closest(last, fields) not in BEARING:
        del mended[last]
    elif not unknown and last in fields and not fields[last].is_required() and last not in BEARING:
        mended.pop(last, None)
    else:
        return False
    return True


def _path_in(value: Any, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of Pydantic's location that exists in the value: its own additions (union members) are left out."""
    path: list[int | str] = []
    for step in location:
        inside = isinstance(value, dict) and step in value
        inside = inside or (isinstance(value, list) and isinstance(step, int) and step < len(value))
        if inside:
            value = value[step]
            path.append(step)
    return tuple(path)


def _problem(value: dict[Any, Any], details: ErrorDetails) -> Problem:
    path, kind, given = _path_in(value, details["loc"]), details["type"], details.get("input")
    if kind == "extra_forbidden":
        known = part_at(path).model_fields
        return Problem(path, f'unknown key "{path[-1]}"', closest(path[-1], known), on_key=True)
    if kind == "missing":
        return Problem(path, f'"{details["loc"][-1]}" is missing', on_key=True)
    if kind == "literal_error":
        expected = details["ctx"]["expected"]
        return Problem(path, f"{_shown(given)} is not one of {expected}", closest(given, expected.split("'")[1::2]))
    if kind in _EXPECTATIONS:
        return Problem(path, f"{_EXPECTATIONS[kind]}, not {_shown(given)}")
    message = details["msg"]
    if message.startswith("Input should"):
        return Problem(path, f"{_shown(given)} is wrong here: it should{message.removeprefix('Input should')}")
    return Problem(path, message)


def _shown(given: object) -> str:
    if isinstance(given, dict | list):
        return "a list" if isinstance(given, list) else "keys with values"
    return "nothing" if given is None else f'"{given}"'


def _finding(file: str, placed: PlacedYaml, problem: Problem) -> Finding:
    place = placed.place(problem.path, on_key=problem.on_key)
    return Finding(file, *place, problem.message + _where(problem.path) + _hint(problem.suggestion))


def _repeated(file: str, path: tuple[Any, ...], place: Place) -> Finding:
    return Finding(file, *place, f'the key "{path[-1]}" is there twice' + _where(path))


def _where(path: tuple[Any, ...]) -> str:
    return f" (where: {''.join(_steps(path)).lstrip('.')})" if path else ""


def _steps(path: tuple[Any, ...]) -> Iterator[str]:
    for step in path:
        yield f"[{step}]" if isinstance(step, int) else f".{step}"


def _hint(suggestion: str | None) -> str:
    return f' - did you mean "{suggestion}"?' if suggestion else ""
