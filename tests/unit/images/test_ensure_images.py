"""Building what is missing, in order, against an engine in memory."""

import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from topology.images import BASE_IMAGE, BuildStopped, ImageBuildError, ensure_images, plan_images


class EngineInMemory:
    """Holds tags; a Dockerfile that contains `fails_on` stops at its second step."""

    def __init__(self, fails_on: str = "no such text", registry: bool = True) -> None:
        self.held: set[str] = set()
        self.built: list[str] = []
        self._fails_on = fails_on
        self._registry = registry
        self._lock = threading.Lock()

    def has_image(self, tag: str) -> bool:
        return tag in self.held

    def build(self, context_tar: bytes, tag: str, build_args: Mapping[str, str]) -> Iterator[str]:
        with tarfile.open(fileobj=io.BytesIO(context_tar)) as archive:
            member = archive.extractfile("Dockerfile")
            assert member is not None
            dockerfile = member.read().decode()
        for parent in build_args.values():
            assert parent in self.held, f"{tag} is built before {parent}"
        yield "Step 1/2 : FROM ${BASE}"
        yield "Step 2/2 : RUN apt-get install"
        if self._fails_on in dockerfile:
            yield from (f"output line {number}" for number in range(40))
            raise BuildStopped("The command returned a non-zero code: 100")
        with self._lock:
            self.held.add(tag)
            self.built.append(tag)

    def import_base(self, tar_path: Path, tag: str) -> None:
        self.held.add(tag)

    def pull(self, name: str, timeout_s: float) -> bool:
        return self._registry

    def tag(self, name: str, new_tag: str) -> None:
        assert name == BASE_IMAGE
        self.held.add(new_tag)


def silent(_role: str, _state: str, _seconds: float, _line: str) -> None:
    """Progress for nobody."""


def roles_of(tags: list[str]) -> set[str]:
    return {tag.partition("/")[2].partition(":")[0] for tag in tags}


def test_parents_are_built_before_their_children_and_once() -> None:
    engine = EngineInMemory()
    tags = ensure_images(engine, ["node", "device", "router"], silent)
    assert set(tags) == {"node", "device", "router"}
    assert set(tags.values()) <= engine.held
    assert sorted(roles_of(engine.built)) == sorted(
        ["liboqs", "python", "node-deps", "node", "device-deps", "device", "router"]
    )
    assert len(engine.built) == len(set(engine.built))


def test_nothing_is_built_twice_over() -> None:
    engine = EngineInMemory()
    ensure_images(engine, ["node"], silent)
    engine.built.clear()
    told: list[tuple[str, str]] = []
    ensure_images(engine, ["node"], lambda role, state, _seconds, _line: told.append((role, state)))
    assert engine.built == []
    assert told == [("node", "cached")]


def test_a_present_image_needs_none_of_its_parents() -> None:
    engine = EngineInMemory()
    engine.held = {plan_images(["node"])["node"].tag}
    ensure_images(engine, ["node"], silent)
    assert engine.built == []


def test_a_failed_build_names_role_and_step_and_quotes_the_end_of_the_output() -> None:
    engine = EngineInMemory(fails_on="haproxy")
    with pytest.raises(ImageBuildError) as caught:
        ensure_images(engine, ["access"], silent)
    assert caught.value.role == "access"
    assert "Step 2/2 : RUN apt-get install" in str(caught.value)
    assert "output line 39" in str(caught.value)
    assert "non-zero code: 100" in str(caught.value)
    assert "output line 20" not in str(caught.value)


def test_a_failed_parent_stops_what_is_built_from_it() -> None:
    engine = EngineInMemory(fails_on="cargo fetch")
    with pytest.raises(ImageBuildError, match="image liboqs"):
        ensure_images(engine, ["node"], silent)
    assert "node" not in roles_of(engine.built)


def test_without_registry_and_mmdebstrap_the_error_is_the_command_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topology.images.shutil.which", lambda _name: None)
    with pytest.raises(ImageBuildError, match=r"sudo apt-get install .*mmdebstrap"):
        ensure_images(EngineInMemory(registry=False), ["access"], silent)


def test_progress_tells_the_beginning_and_the_end_of_each_build() -> None:
    told: list[tuple[str, str]] = []
    ensure_images(EngineInMemory(), ["access"], lambda role, state, _seconds, _line: told.append((role, state)))
    for role in ("base", "access"):
        states = [state for told_role, state in told if told_role == role]
        assert states[0] == "building"
        assert states[-1] == "done"
