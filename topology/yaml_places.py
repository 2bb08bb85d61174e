"""A YAML text as plain values, together with the line and column of every key and value in it.

Syntax errors, a second document, repeated keys and endless aliases are found here; what the values mean is not known
here. Positions are 1-based, as editors count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MOST_VALUES: Final = 20_000
DEEPEST: Final = 50

Path = tuple[Any, ...]


class Place(NamedTuple):
    """A position in a text, 1-based."""

    line: int
    column: int


class YamlTextError(Exception):
    """The text is not a YAML document that can be read; `place` is where that shows."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


@dataclass
class PlacedYaml:
    """The document's value, where each part of it stands, and the keys that were given twice."""

    value: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    repeated: list[tuple[Path, Place]] = field(default_factory=list)

    def place(self, path: Sequence[Any], *, on_key: bool) -> Place:
        """Where the part at `path` stands, or else the nearest part around it."""
        for length in range(len(path), 0, -1):
            wanted = tuple(path[:length])
            # A part around the wanted one is better named by its key than by where its own contents begin.
            order = (self.keys, self.values) if on_key or length < len(path) else (self.values, self.keys)
            for places in order:
                if wanted in places:
                    return places[wanted]
        return Place(1, 1)


def read_yaml(text: str) -> PlacedYaml:
    """Read one YAML document; raises YamlTextError."""
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except ReaderError as error:
        raise YamlTextError(_place_at(text, error.position), "a control character that YAML does not allow") from error
    except MarkedYAMLError as error:
        raise _syntax_error(text, error) from error
    except (YAMLError, RecursionError, ValueError) as error:
        raise YamlTextError(Place(1, 1), f"not readable as YAML: {error}") from error
    placed = PlacedYaml()
    if root is not None:
        placed.value = _Reader(placed).read(root, (), ())
    return placed


def _syntax_error(text: str, error: MarkedYAMLError) -> YamlTextError:
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
    problem = error.problem or "not readable as YAML"
    if "\\t" in problem:
        return YamlTextError(place, "a tab where YAML wants spaces")
    if "another document" in problem:
        return YamlTextError(place, "a second YAML document begins here; a description is one document")
    context = f" {error.context}" if error.context else ""
    return YamlTextError(place, f"not valid YAML: {problem}{context}")


def _place_at(text: str, position: int) -> Place:
    before = text[:position]
    return Place(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _Reader:
    def __init__(self, placed: PlacedYaml) -> None:
        self._placed = placed
        self._count = 0

    def read(self, node: Node, path: Path, around: tuple[int, ...]) -> Any:
        place = _start(node)
        self._count += 1
        if id(node) in around or len(around) > DEEPEST or self._count > MOST_VALUES:
            raise YamlTextError(place, "too deep, too long, or an alias that contains itself")
        self._placed.values[path] = place
        if isinstance(node, MappingNode):
            return self._mapping(node, path, (*around, id(node)))
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, index), (*around, id(node))) for index, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: MappingNode, path: Path, around: tuple[int, ...]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise YamlTextError(_start(key_node), "a key must be a plain word")
            # A key is a name whatever it looks like, so 2024 and null stay text.
            key = key_node.value
            here = (*path, key)
            if key in result:
                self._placed.repeated.append((here, _start(key_node)))
                continue
            self._placed.keys[here] = _start(key_node)
            result[key] = self.read(value_node, here, around)
        return result


def _start(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(node: Node) -> Any:
    tag, text = str(node.tag).rpartition(":")[2], node.value
    try:
        match tag:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text.replace("_", ""), 0 if text.lstrip("+-")[1:2].isalpha() else 10)
            case "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
    return text
