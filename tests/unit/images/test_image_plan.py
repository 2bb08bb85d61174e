"""Tags follow content: what changes is built again, and nothing else is."""

import ast
import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from topology.images import (
    CA_BUNDLE,
    PROJECT_ROOT,
    RECIPES,
    TESTBED_ROLES,
    context_files,
    context_tar,
    host_ca_bundle,
    plan_images,
)

LOCKS = sorted((PROJECT_ROOT / "images" / "locks").glob("*.lock"))
REQUIREMENT = re.compile(r"[a-z0-9][a-z0-9.-]*==\S+( ; [^\\]+)?( \\)?")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what contexts are made of, to be changed at will."""
    for name in ("images", "node", "emulators", "loadtests"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def tags(root: Path) -> dict[str, str]:
    return {role: plan.tag for role, plan in plan_images(RECIPES, root).items()}


def changed_roles(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {role for role in before if before[role] != after[role]}


@pytest.mark.parametrize(
    ("path", "rebuilt"),
    [
        ("node/servers/__init__.py", {"node", "node-test"}),
        ("node/wire/__init__.py", {"node", "node-test", "device"}),
        ("emulators/settings.py", {"device"}),
        ("images/locks/node.lock", {"node-deps", "node", "node-test"}),
        ("images/locks/load.lock", {"load-deps", "load"}),
        ("images/liboqs/shim.c", {"liboqs", "node", "node-test"}),
        ("images/access/Dockerfile", {"access"}),
        ("images/python/Dockerfile", set(RECIPES) - {"liboqs", "access"}),
    ],
)
def test_a_changed_file_renames_only_what_is_built_from_it(project: Path, path: str, rebuilt: set[str]) -> None:
    before = tags(project)
    (project / path).write_bytes((project / path).read_bytes() + b"\n")
    assert changed_roles(before, tags(project)) == rebuilt


def test_a_moved_file_renames_its_image(project: Path) -> None:
    before = tags(project)
    (project / "node/errors.py").rename(project / "node/errors_elsewhere.py")
    assert changed_roles(before, tags(project)) == {"node", "node-test"}


def test_readmes_and_byte_code_rename_nothing(project: Path) -> None:
    before = tags(project)
    (project / "node/README.md").write_text("a new explanation\n")
    (project / "node/wire/__pycache__").mkdir()
    (project / "node/wire/__pycache__/etsi014.cpython-311.pyc").write_bytes(b"\0")
    assert changed_roles(before, tags(project)) == set()


def test_another_ca_bundle_renames_nothing(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tags(project)
    bundle = tmp_path / "other-authorities.crt"
    bundle.write_text("another authority\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert host_ca_bundle() == b"another authority\n"
    assert tags(project) == before


def test_the_ca_bundle_goes_only_where_a_build_stage_fetches() -> None:
    for role, plan in plan_images(RECIPES).items():
        if role == "base":
            continue
        with tarfile.open(fileobj=io.BytesIO(context_tar(plan, b"an authority"))) as archive:
            assert (CA_BUNDLE in archive.getnames()) == RECIPES[role].fetches, role


def test_a_ca_bundle_is_copied_into_build_stages_only() -> None:
    for role in RECIPES:
        final_stage = (PROJECT_ROOT / "images" / role / "Dockerfile").read_text().rpartition("\nFROM ")[2]
        assert CA_BUNDLE not in final_stage, role


def test_the_same_content_packs_to_the_same_bytes(project: Path) -> None:
    plan = plan_images(["node"], project)["node"]
    first = context_tar(plan, b"")
    (project / "node/__init__.py").touch()
    assert context_tar(plan_images(["node"], project)["node"], b"") == first


def test_a_file_edited_after_planning_is_built_as_it_was_named(project: Path) -> None:
    plan = plan_images(["node"], project)["node"]
    before = context_tar(plan, b"")
    (project / "node/errors.py").write_text("raise SystemExit\n")
    assert context_tar(plan, b"") == before


def test_every_build_argument_is_one_the_dockerfile_takes() -> None:
    for role, recipe in RECIPES.items():
        dockerfile = (PROJECT_ROOT / "images" / role / "Dockerfile").read_text()
        for name in recipe.parents:
            assert f"ARG {name}=" in dockerfile, role
            assert f"FROM ${{{name}}}" in dockerfile, role


@pytest.mark.parametrize("role", TESTBED_ROLES)
def test_an_image_holds_every_module_of_ours_that_its_code_imports(role: str) -> None:
    held = {path.removeprefix("code/") for path in context_files(role) if path.startswith("code/")}
    for path in sorted(held):
        for module in _own_imports(PROJECT_ROOT / path):
            file = module.replace(".", "/")
            assert held & {f"{file}.py", f"{file}/__init__.py"}, f"{path} imports {module}"


def _own_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for statement in ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else ():
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.add(statement.module)
    return {name for name in found if name.partition(".")[0] in {"node", "emulators", "loadtests", "topology"}}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(lock: Path) -> None:
    lines = lock.read_text().splitlines()
    assert lines
    assert all(REQUIREMENT.fullmatch(line) or HASH.fullmatch(line) for line in lines)
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert HASH.fullmatch(line) or HASH.fullmatch(following), f"{line} has no hash"


def test_every_lock_is_used_and_every_used_lock_is_there() -> None:
    assert {lock.name for lock in LOCKS} == {name for recipe in RECIPES.values() for name in recipe.lock_files}
