"""`up` run again, after changes, after a crash at any moment; and `down`."""

import dataclasses
from ipaddress import IPv4Network

import pytest

from tests.unit.testbed_tasks.imitated_engine import ImitatedEngine, PowerCut
from topology import converge
from topology.converge import Wanted, bring_about, prepare, take_away
from topology.engine import Found, FoundContainer
from topology.images import PROJECT_ROOT
from topology.load import load_description
from topology.naming import Kind, labels
from topology.plan import FileContent, Plan
from topology.planner import make_plan
from topology.progress import Progress

TAGS = {"node": "kmstn/node:1", "device": "kmstn/device:1", "router": "kmstn/router:1", "access": "kmstn/access:1"}


def two_nodes(name: str = "two") -> Plan:
    description = load_description(PROJECT_ROOT / "topology" / "testbeds" / "two-nodes.yaml")
    ports = {"kmstn1": 20001, "kmstn2": 20002, "kmstn1/operator": 20003, "kmstn2/operator": 20004}
    return make_plan(description, name, IPv4Network("10.99.0.0/16"), 0.0, ports)


def wanted(plan: Plan | None = None, tags: dict[str, str] = TAGS, secret: str = "") -> Wanted:
    def resolve(content: FileContent) -> bytes:
        return content if isinstance(content, bytes) else f"{content}{secret}".encode()

    return prepare(plan or two_nodes(), tags, resolve)


def up(engine: ImitatedEngine, what: Wanted | None = None) -> converge.Changes:
    return bring_about(engine, what or wanted(), Progress())


def assert_as_wanted(engine: ImitatedEngine, what: Wanted) -> None:
    assert engine.existing.keys() == what.wishes.keys()
    assert {one.state for one in engine.existing.values()} == {"running"}
    assert engine.vols.keys() == what.volumes.keys()
    ids = {network.name: network.network_id for network in engine.nets.values()}
    for name, wish in what.wishes.items():
        assert engine.existing[name].networks == {leg.network: ids[leg.network] for leg in wish.networks}


def test_up_twice_changes_nothing() -> None:
    engine = ImitatedEngine()
    assert up(engine)
    done = list(engine.calls)
    assert not up(engine)
    assert engine.calls == done


def test_routers_come_before_devices_before_nodes_before_the_access() -> None:
    engine = ImitatedEngine()
    up(engine)
    kinds = [engine.existing[call.split()[1]].kind for call in engine.calls if call.startswith("start ")]
    assert kinds == sorted(kinds, key=[kind.value for kind in converge.START_ORDER].index)


def test_up_after_a_crash_at_any_moment_ends_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converge, "WORKERS", 1)
    whole = ImitatedEngine()
    up(whole)
    for moment in range(1, len(whole.calls) + 1):
        engine = ImitatedEngine()
        engine.cut_at = moment
        with pytest.raises(PowerCut):
            up(engine)
        engine.cut_at = None
        up(engine)
        assert_as_wanted(engine, wanted())


def test_down_after_a_crash_at_any_moment_leaves_nothing() -> None:
    whole = ImitatedEngine()
    up(whole)
    for moment in range(1, len(whole.calls) + 1):
        engine = ImitatedEngine()
        engine.cut_at = moment
        with pytest.raises(PowerCut):
            up(engine)
        engine.cut_at = None
        take_away(engine, "two")
        assert engine.existing == {}
        assert engine.nets == {}
        assert engine.vols == {}


def test_stopped_container_is_started_and_not_made_anew() -> None:
    engine = ImitatedEngine()
    up(engine)
    engine.set_state("two-kmstn1", "exited")
    changes = up(engine)
    assert changes.started == ("two-kmstn1",)
    assert changes.created == changes.removed == ()


def test_container_that_was_created_but_never_started_is_made_anew() -> None:
    engine = ImitatedEngine()
    up(engine)
    engine.set_state("two-kmstn1", "created")
    assert up(engine).removed == ("two-kmstn1",)
    assert_as_wanted(engine, wanted())


def test_network_that_somebody_replaced_takes_its_containers_along() -> None:
    engine = ImitatedEngine()
    up(engine)
    node = engine.existing["two-kmstn1"]
    network = next(iter(node.networks))
    old = engine.nets[network]
    engine.nets[network] = dataclasses.replace(old, network_id="another")
    assert "two-kmstn1" in up(engine).removed
    assert_as_wanted(engine, wanted())


def test_new_certificate_makes_its_container_anew_and_keeps_the_store() -> None:
    engine = ImitatedEngine()
    up(engine)
    renewed = wanted(secret="renewed")
    changes = up(engine, renewed)
    assert "two-kmstn1" in changes.created
    assert changes.dropped_stores == ()
    assert not [call for call in engine.calls if call.startswith("remove volume")]
    assert_as_wanted(engine, renewed)


def test_new_node_software_drops_the_stores_sealed_to_the_old_and_says_whose() -> None:
    engine = ImitatedEngine()
    up(engine)
    newer = wanted(tags={**TAGS, "node": "kmstn/node:2"})
    changes = up(engine, newer)
    assert sorted(changes.dropped_stores) == ["kmstn1", "kmstn2"]
    assert set(changes.created) == {"two-kmstn1", "two-kmstn2"}
    assert_as_wanted(engine, newer)


def test_crash_between_dropping_a_container_and_its_sealed_store_does_not_keep_the_store() -> None:
    engine = ImitatedEngine()
    up(engine)
    newer = wanted(tags={**TAGS, "node": "kmstn/node:2"})
    engine.remove_container("two-kmstn1")
    assert "kmstn1" in up(engine, newer).dropped_stores


def test_container_that_is_in_no_plan_any_more_goes() -> None:
    engine = ImitatedEngine()
    up(engine)
    engine.existing["two-old"] = FoundContainer("two-old", labels("two", Kind.NODE, "old", "x"), "running", "i")
    assert up(engine).removed == ("two-old",)


def test_load_test_under_way_survives_an_up_and_not_a_down() -> None:
    engine = ImitatedEngine()
    up(engine)
    engine.existing["two-load"] = FoundContainer("two-load", labels("two", Kind.LOAD, "load", ""), "running", "i")
    assert not up(engine)
    take_away(engine, "two")
    assert engine.existing == {}


def test_down_leaves_other_testbeds_alone() -> None:
    engine = ImitatedEngine()
    up(engine)
    other = wanted(two_nodes("other"))
    up(engine, other)
    take_away(engine, "two")
    assert_as_wanted(engine, other)


def test_spec_does_not_show_a_secret() -> None:
    what = wanted(secret="the fibre's seed")
    assert "the fibre's seed" not in repr(what)


def test_volume_of_another_testbed_is_never_taken_for_ours() -> None:
    engine = ImitatedEngine()
    engine.vols["elses"] = Found("elses", labels("other", Kind.VOLUME, "elses", "x"))
    up(engine)
    take_away(engine, "two")
    assert list(engine.vols) == ["elses"]


def test_container_whose_volume_somebody_removed_is_made_anew() -> None:
    engine = ImitatedEngine()
    up(engine)
    del engine.vols["two-kmstn1"]
    assert up(engine).removed == ("two-kmstn1",)
    assert_as_wanted(engine, wanted())
