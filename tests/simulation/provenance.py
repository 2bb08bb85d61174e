"""Truth 4: path and grade in the books are those of the way that a key really took, hop by hop."""

from collections.abc import Mapping
from dataclasses import dataclass

from node.core.keys import Grade, KeyRecord, KeyState, Parcel
from tests.simulation.messages import Transfer
from tests.simulation.verdict import Truth, Verdict


@dataclass(frozen=True, slots=True)
class Way:
    """Nodes passed, and whether every hop so far spent one link key per block."""

    nodes: tuple[str, ...]
    quantum: bool = True

    @property
    def grade(self) -> Grade:
        """The grade that this way deserves."""
        return Grade.QKD if self.quantum else Grade.PQC


class Provenance:
    """Follows each parcel from the outside, never reading what nodes write about it."""

    def __init__(self, verdict: Verdict, links: Mapping[frozenset[str], bool]) -> None:
        self._verdict = verdict
        self._links = links
        self._held: dict[tuple[str, str, str], Way] = {}
        self._transfers: dict[str, tuple[Transfer, Way]] = {}
        self._blocks: dict[str, Way] = {}
        self._arrived: dict[str, list[Way]] = {}
        self._first: dict[tuple[str, str], Way] = {}
        self._work: Transfer | None = None
        self._work_blocks: tuple[str, ...] = ()

    def work_began(self) -> None:
        """Another transaction begins."""
        self._work, self._work_blocks = None, ()

    def left(self, transfer: Transfer) -> None:
        """A transfer left its sender."""
        before = self._held.get((transfer.sender, transfer.destination, transfer.key_ids[0]))
        if before is None:
            return self._verdict.blame(
                Truth.BOTH_OR_NEITHER, f"{transfer.sender} sends key {transfer.key_ids[0]} before its books say so"
            )
        needed = sum(-(-len(value) // 32) for value in transfer.values)
        quantum = self._links[frozenset((transfer.sender, transfer.receiver))] and len(transfer.link_key_ids) == needed
        way = Way((*before.nodes, transfer.receiver), before.quantum and quantum)
        self._transfers[transfer.transfer_id] = transfer, way
        return None

    def remembered(self, node: str, transfer_id: str) -> None:
        """In this transaction, a node takes over a transfer."""
        known = self._transfers.get(transfer_id)
        if known is not None:
            self._work, way = known
            for key_id in known[0].key_ids:
                if known[0].destination == node:
                    self._arrived.setdefault(key_id, []).append(way)

    def kept(self, node: str, parcel: Parcel) -> None:
        """A node keeps a parcel: one that just came in, one of its own, or one that it sends again."""
        for key_id in parcel.key_ids:
            place = (node, parcel.end_to_end.destination, key_id)
            if self._work is not None:
                self._held[place] = self._way_of(self._work)
            elif parcel.upstream is None:
                self._held.setdefault(place, Way((node,)))

    def blocks_kept(self, key_ids: tuple[str, ...]) -> None:
        """The destination keeps pool blocks."""
        if self._work is not None:
            for key_id in key_ids:
                self._blocks.setdefault(key_id, self._way_of(self._work))

    def blocks_used(self, key_ids: tuple[str, ...]) -> None:
        """In this transaction, the destination unwraps with these blocks."""
        self._work_blocks = key_ids

    def recorded(self, node: str, record: KeyRecord) -> None:
        """A node writes down a session key."""
        if self._work is not None:
            way = self._way_of(self._work)
            self._first[node, record.key_id] = way
            grade = way.grade
            if self._work_blocks:
                ways = [self._blocks.get(key_id, Way((), False)) for key_id in self._work_blocks]
                grade = Grade.QKD if all(block.quantum for block in ways) else Grade.PQC
            self._compare(node, record.key_id, way, record.path, record.grade, grade)
        elif record.state is not KeyState.UNDERWAY:
            self._recorded_by_origin(node, record)

    def updated(self, node: str, key_id: str, path: tuple[str, ...] | None, grade: Grade | None) -> None:
        """The origin writes down which way a key went."""
        ways = self._arrived.get(key_id, [])
        if path is None or path[-1] == node or not ways:
            return
        taken = [way for way in ways if way.nodes == path]
        if not taken:
            text = f"{node} writes that key {key_id} went {_shown(path)}, it went {_all_shown(ways)}"
            self._verdict.blame(Truth.WHICH_WAY, text)
        elif grade is not None:
            deserved = {way.grade for way in taken}
            text = f"{node} grades key {key_id} {grade}, it deserves {' or '.join(sorted(deserved))}"
            self._verdict.check(grade in deserved, Truth.WHICH_WAY, text)

    def way_of_record(self, node: str, key_id: str) -> Way | None:
        """Return the way of the copy that a destination kept."""
        return self._first.get((node, key_id))

    def _recorded_by_origin(self, node: str, record: KeyRecord) -> None:
        ways = self._arrived.get(record.key_id, [])
        if not ways:
            local = record.path == (node,) and record.grade is Grade.QKD
            text = f"{node} writes that key {record.key_id}, which never left, went {_shown(record.path)}"
            return self._verdict.check(local, Truth.WHICH_WAY, text)
        taken = any(way.nodes == record.path for way in ways)
        text = f"{node} writes that key {record.key_id} went {_shown(record.path)}, it went {_all_shown(ways)}"
        self._verdict.check(taken, Truth.WHICH_WAY, text)
        deserved = Grade.QKD if all(way.quantum for way in ways) else Grade.PQC
        text = f"{node} grades key {record.key_id} {record.grade}, it deserves {deserved}"
        return self._verdict.check(record.grade is deserved, Truth.WHICH_WAY, text)

    def _compare(self, node: str, key_id: str, way: Way, path: tuple[str, ...], grade: Grade, deserved: Grade) -> None:
        text = f"{node} writes that key {key_id} came {_shown(path)}, it came {_shown(way.nodes)}"
        self._verdict.check(path == way.nodes, Truth.WHICH_WAY, text)
        text = f"{node} grades key {key_id} {grade}, it deserves {deserved}"
        self._verdict.check(grade is deserved, Truth.WHICH_WAY, text)

    def _way_of(self, transfer: Transfer) -> Way:
        return self._transfers[transfer.transfer_id][1]


def _shown(nodes: tuple[str, ...]) -> str:
    return ">".join(nodes) or "nowhere"


def _all_shown(ways: list[Way]) -> str:
    return " and ".join(_shown(way.nodes) for way in ways)
