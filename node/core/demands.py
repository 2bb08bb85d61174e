"""This node's extensions of ETSI GS QKD 014: what a request demands of the way its keys take, and if that can be met.

Mandatory demands are met or the request is refused, and then no slave can fetch a key of it. Optional ones are ignored
where they ask for more than the node does anyway; so are names that are not ours (the standard leaves both open).
EXTENSIONS.md describes them for those who write SAEs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise, permutations

from pydantic import JsonValue

from node.core.federation import Federation
from node.core.keys import Grade, KeyRecord
from node.errors import BadRequestError
from node.settings import LinkKind
from node.wire import etsi014
from node.wire.federation import NodeAdvert

GRADE = "kmstn_grade"
SUITE = "kmstn_suite"
PROVENANCE = "kmstn_provenance"

Hops = Iterable[tuple[NodeAdvert | None, NodeAdvert | None]]


@dataclass(frozen=True, slots=True)
class Demands:
    """What one request demands: the grade of the way, the suite of every seal and hop on it, to be told which."""

    grade: Grade | None = None
    suite: str | None = None
    provenance: bool = False

    @property
    def of_the_way(self) -> bool:
        """Whether not every way will do."""
        return self.grade is Grade.QKD or self.suite is not None


NO_DEMANDS = Demands()


class DemandNotMetError(BadRequestError):
    """A mandatory demand that cannot be met; `details` says which, and why."""

    def __init__(self, details: Mapping[str, str]) -> None:
        super().__init__(etsi014.MANDATORY_NOT_MET, details)


def demands_of(request: etsi014.KeyRequest) -> Demands:
    """Read the extensions of a Get key request; raises BadRequestError for what is unknown, or no value of ours."""
    mandatory = _members("extension_mandatory", request.extension_mandatory)
    unknown = [name[: etsi014.MAX_NAME_CHARACTERS] for name in mandatory if name not in _WRONG]
    if unknown:
        details = dict.fromkeys(unknown[: etsi014.MAX_DETAILS], "not supported")
        raise BadRequestError(etsi014.MANDATORY_NOT_SUPPORTED, details)
    optional = _members("extension_optional", request.extension_optional)
    _check("extension_mandatory", mandatory)
    _check("extension_optional", optional)
    grade, suite = mandatory.get(GRADE), mandatory.get(SUITE)
    return Demands(
        grade=None if grade is None else Grade(str(grade)),
        suite=None if suite is None else str(suite),
        provenance=mandatory.get(PROVENANCE, optional.get(PROVENANCE)) is True,
    )


def asking_for_provenance(request: etsi014.KeyIDs) -> tuple[str, ...]:
    """Return the IDs whose way is asked for: all, or those that say so themselves; raises BadRequestError."""
    of_all = _asks("key_IDs_extension", request.key_IDs_extension)
    return tuple(
        entry.key_ID
        for index, entry in enumerate(request.key_IDs)
        if _asks(f"key_IDs.{index}.key_ID_extension", entry.key_ID_extension) or of_all
    )


def provenance(record: KeyRecord | None) -> etsi014.Extension | None:
    """Spell the way of a key, as this node's record has it."""
    if record is None:
        return None
    return {PROVENANCE: {"grade": record.grade.value, "path": list(record.path)}}


def check_way_to(home: str, demands: Demands, own: str, federation: Federation) -> None:
    """Raise DemandNotMetError if, by what this node knows, the way from it to an SAE's home does not meet the demands.

    Raises NoRouteError too. Between regions only WAN links lead, hence no way out of the region has the grade `qkd`.
    Inside a region the way is known hop by hop; in others it is not, so every hop there may be on it.
    """
    route = federation.route_to(home)
    if demands.grade is Grade.QKD and (
        route.domain_path or federation.link_to(route.next_hop).kind is not LinkKind.QKD
    ):
        raise DemandNotMetError({GRADE: f"the way to {home} is not all QKD"})
    if demands.suite is not None:
        node = federation.directory.node
        here = node(own)
        hops: Hops = pairwise(node(name) for name in (own, *route.node_path))
        if route.domain_path:
            domains = {here.domain if here else "", *route.domain_path}
            hops = permutations((one for one in federation.directory.nodes() if one.domain in domains), 2)
        _check_suite(demands.suite, ((here, node(home)), *hops))


def check_grade(grade: Grade, demands: Demands) -> None:
    """Raise DemandNotMetError if a better grade is demanded than this one."""
    if demands.grade is Grade.QKD and grade is not Grade.QKD:
        raise DemandNotMetError({GRADE: "the keys would not be of this grade"})


def check_way_taken(path: tuple[str, ...], grade: Grade, demands: Demands, federation: Federation) -> None:
    """Raise DemandNotMetError if the way that keys have taken does not meet the demands after all, or was not told."""
    check_grade(grade, demands)
    if demands.suite is not None:
        if len(path) < 2:
            raise DemandNotMetError({SUITE: "the way that the keys took was not told"})
        _check_suite(demands.suite, pairwise(federation.directory.node(name) for name in path))


def _check_suite(suite: str, hops: Hops) -> None:
    for sender, receiver in hops:
        if sender is None or receiver is None:
            raise DemandNotMetError({SUITE: "the way leads through a node that is not known"})
        used = next((one for one in sender.suites if one in receiver.suites), None)
        if used != suite:
            raise DemandNotMetError({SUITE: f"from {sender.node} to {receiver.node} it would be {used}"})


def _members(where: str, options: Iterable[etsi014.Extension]) -> dict[str, JsonValue]:
    members: dict[str, JsonValue] = {}
    for option in options:
        for name, value in option.items():
            if name in members and name in _WRONG:
                raise BadRequestError(etsi014.BAD_REQUEST_FORMAT, {f"{where}.{name}": "stands twice"})
            members[name] = value
    return members


def _check(where: str, members: Mapping[str, JsonValue]) -> None:
    for name, wrong in _WRONG.items():
        if name in members and (reason := wrong(members[name])):
            raise BadRequestError(etsi014.BAD_REQUEST_FORMAT, {f"{where}.{name}": reason})


def _asks(where: str, extension: etsi014.Extension | None) -> bool:
    if extension is None:
        return False
    members = {name: value for name, value in extension.items() if name == PROVENANCE}
    _check(where, members)
    return members.get(PROVENANCE) is True


def _wrong_grade(value: JsonValue) -> str | None:
    return None if value in list(Grade) else f"one of {', '.join(Grade)}"


def _wrong_suite(value: JsonValue) -> str | None:
    return None if isinstance(value, str) and value else "the name of a suite"


def _wrong_flag(value: JsonValue) -> str | None:
    return None if isinstance(value, bool) else "true or false"


_WRONG: Mapping[str, Callable[[JsonValue], str | None]] = {
    GRADE: _wrong_grade,
    SUITE: _wrong_suite,
    PROVENANCE: _wrong_flag,
}
