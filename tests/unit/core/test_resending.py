"""Parcels that are sent again: neighbours do not wait for one another, and none is sent twice at a time."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from node.core.keys import Parcel
from node.core.resending import AT_ONCE, Resending
from node.errors import StoreError
from node.wire.federation import Purpose
from tests.unit.core.relay_pair import Background, Pair
from tests.unit.storage.small_stores import opened, parcel


class Neighbours:
    """Who is sent to; `slow` answers when `woken` only."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.begun: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    async def resend(self, sent: Parcel) -> None:
        self.begun[sent.downstream] += 1
        if sent.downstream == "slow":
            await self.woken.wait()
        if sent.downstream == "failing":
            raise StoreError("no") if self.begun["failing"] % 2 else RuntimeError("never thought of")
        self.done[sent.downstream] += 1


def to(neighbour: str, number: int) -> list[Parcel]:
    return [parcel(f"{neighbour}{n}", (f"k{n}",), downstream=neighbour) for n in range(number)]


async def test_slow_neighbour_holds_up_no_other_and_no_failure_the_rest() -> None:
    background, neighbours = Background(), Neighbours()
    resending = Resending(background)
    for one in (*to("slow", 3 * AT_ONCE), *to("failing", 5 * AT_ONCE), *to("quick", 3 * AT_ONCE)):
        resending.begin(one, neighbours.resend)
    for _ in range(200):
        await asyncio.sleep(0)
    assert neighbours.begun == {"slow": AT_ONCE, "failing": 5 * AT_ONCE, "quick": 3 * AT_ONCE}
    assert neighbours.done == {"quick": 3 * AT_ONCE}
    neighbours.woken.set()
    await background.finish()
    assert neighbours.done["slow"] == 3 * AT_ONCE


async def test_parcel_that_waits_or_is_being_sent_is_not_sent_twice_but_again_later() -> None:
    background, neighbours = Background(), Neighbours()
    resending = Resending(background)
    for _ in range(3):
        for one in to("slow", 2 * AT_ONCE):
            resending.begin(one, neighbours.resend)
        await asyncio.sleep(0)
    neighbours.woken.set()
    await background.finish()
    assert neighbours.begun["slow"] == 2 * AT_ONCE
    resending.begin(to("slow", 1)[0], neighbours.resend)
    await background.finish()
    assert neighbours.begun["slow"] == 2 * AT_ONCE + 1


async def test_overdue_parcels_are_looked_up_little_by_little(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(7):
            one = parcel(f"p{number}", (f"k{number}",), expires_at=50.0 if number < 5 else 100.0)
            await store.transact(lambda ledger, one=one: ledger.add_parcel(one))  # type: ignore[misc]
        found = await store.transact(lambda ledger: ledger.overdue_parcels(60.0, "", 3))
        assert [one.parcel_id for one in found] == ["p0", "p1", "p2"]
        found = await store.transact(lambda ledger: ledger.overdue_parcels(60.0, "p2", 3))
        assert [one.parcel_id for one in found] == ["p3", "p4"]


async def test_all_overdue_wrapped_keys_are_sent_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path)
    delivery, clock = pair.n1.core.delivery, pair.clock
    resent: list[str] = []

    async def resume(_relay: object, one: Parcel) -> None:
        resent.append(one.parcel_id)

    async def turn(_seconds: float) -> None:
        if resent:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    monkeypatch.setattr(type(pair.n1.core.relay), "resume", resume)
    monkeypatch.setattr("node.core.key_delivery.SLICE", 3)
    monkeypatch.setattr(clock, "sleep", turn)
    soon, late = clock.now() + 1, clock.now() + 1e6
    for number in range(8):
        one = parcel(f"w{number}", (f"w{number}",), expires_at=soon, purpose=Purpose.WRAPPED_KEY)
        await pair.n1.store.transact(lambda ledger, one=one: ledger.add_parcel(one))  # type: ignore[misc]
    for other in (
        parcel("young", ("y",), expires_at=late, purpose=Purpose.WRAPPED_KEY),
        parcel("session", ("s",), expires_at=soon),
        parcel("transit", ("t",), expires_at=soon, purpose=Purpose.WRAPPED_KEY, upstream="n0"),
    ):
        await pair.n1.store.transact(lambda ledger, other=other: ledger.add_parcel(other))  # type: ignore[misc]
    with pytest.raises(asyncio.CancelledError):
        await delivery.repeat_overdue()
    await pair.n1.background.finish()
    pair.close()
    assert sorted(resent) == [f"w{number}" for number in range(8)]
