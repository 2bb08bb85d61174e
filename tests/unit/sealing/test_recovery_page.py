"""The page on recovering names every way in which a start can fail, with its exit code and a test that exists."""

import re
from pathlib import Path

from node.__main__ import EXIT_CODES
from node.sealing import errors

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "node" / "sealing" / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and "`test_" in line
]


def test_every_error_is_on_the_page_with_its_exit_code() -> None:
    told = {row[0].strip("`"): int(row[1]) for row in ROWS if row[1].isdigit()}
    assert told == {kind.__name__: code for kind, code in EXIT_CODES.items()}
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_every_sealing_error_has_an_exit_code() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SealingError)}
    assert kinds - {errors.SealingError} <= set(EXIT_CODES)


def test_every_row_has_a_test_that_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in ROWS:
        names = re.findall(r"`(test_\w+)`", row[4])
        assert names, row
        for name in names:
            assert f"def {name}(" in sources, name
