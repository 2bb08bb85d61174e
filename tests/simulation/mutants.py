"""Cores that are broken on purpose, one way each. The oracle must catch every one, or it watches nothing.

Each mutant is a function that patches production code; what it breaks is its docstring's sentence.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation import mutants_of_delivery, mutants_of_protection, mutants_of_storage

Patch = tuple[Any, str, Any]

MUTANTS: dict[str, Callable[[], list[Patch]]] = {
    name.replace("_", "-"): make
    for module in (mutants_of_storage, mutants_of_delivery, mutants_of_protection)
    for name, make in vars(module).items()
    if callable(make) and getattr(make, "__module__", "") == module.__name__ and not name.startswith("_")
}


@contextmanager
def applied(mutant: str | None) -> Iterator[None]:
    """Run with the core broken in one way; with None, as it is."""
    patches = MUTANTS[mutant]() if mutant is not None else []
    before = [(owner, name, owner.__dict__[name]) for owner, name, _broken in patches]
    try:
        for owner, name, broken in patches:
            setattr(owner, name, broken)
        yield
    finally:
        for owner, name, whole in reversed(before):
            setattr(owner, name, whole)
