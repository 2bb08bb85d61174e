"""Users get their pairs evenly and repeatably, and settings that do not fit together are refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtests.settings import Sae, SaePair, SettingsError, credentials, pair_of_user, read_pairs, shuffled

SAES = [{"sae": f"sae-{n}", "node": f"kmstn{n}", "url": f"https://kmstn{n}:8443", "domain": "east"} for n in range(4)]
PAIRS = [["sae-0", "sae-1"], ["sae-1", "sae-0"], ["sae-2", "sae-3"], ["sae-3", "sae-0"], ["sae-0", "sae-3"]]


def write(folder: Path, document: Any) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps(document))
    return path


def test_pairs_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, {"saes": SAES, "pairs": PAIRS}))
    assert [[pair.master.name, pair.slave.name] for pair in pairs] == PAIRS
    assert pairs[0].slave == Sae("sae-1", "kmstn1", "https://kmstn1:8443", "east")


@pytest.mark.parametrize("users", [1, 5, 12, 20])
def test_users_spread_evenly_over_the_pairs(tmp_path: Path, users: int) -> None:
    pairs = shuffled(read_pairs(write(tmp_path, {"saes": SAES, "pairs": PAIRS})), seed=3)
    shares = Counter(pair_of_user(pairs, user) for user in range(users))
    assert len(shares) == min(users, len(PAIRS))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_the_seed_alone_decides_the_order() -> None:
    saes = [Sae(str(n), "node", "https://node", "east") for n in range(9)]
    pairs = [SaePair(saes[0], other) for other in saes[1:]]
    assert shuffled(pairs, 1) == shuffled(pairs, 1)
    assert shuffled(pairs, 1) != shuffled(pairs, 2)
    assert set(shuffled(pairs, 1)) == set(pairs)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"saes": SAES, "pairs": []}, "no pair"),
        ({"saes": SAES, "pairs": [["sae-0", "sae-9"]]}, "sae-9"),
        ({"saes": SAES, "pairs": [["sae-0", "sae-0"]]}, "paired with itself"),
        ({"saes": SAES, "pairs": [["sae-0"]]}, "slave"),
        ({"saes": [{"sae": "sae-0"}], "pairs": PAIRS}, "node"),
        ({"saes": [{**SAES[0], "domain": 7}], "pairs": PAIRS}, "strings"),
        ({"saes": [{**SAES[0], "url": "http://kmstn0:8443"}], "pairs": PAIRS}, "TLS"),
        ({"pairs": PAIRS}, "saes"),
        ([], "TypeError"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path, document: Any, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        read_pairs(write(tmp_path, document))


def test_absent_or_broken_settings_are_refused_with_their_path(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    with pytest.raises(SettingsError, match=r"settings\.json"):
        read_pairs(path)
    path.write_text("{")
    with pytest.raises(SettingsError, match=r"settings\.json is not JSON"):
        read_pairs(path)


@pytest.mark.parametrize("absent", ["sae-0.crt", "sae-0.key", "domains/east.crt"])
def test_an_sae_without_one_of_its_files_is_refused(tmp_path: Path, absent: str) -> None:
    (tmp_path / "domains").mkdir()
    for name in {"sae-0.crt", "sae-0.key", "domains/east.crt"} - {absent}:
        (tmp_path / name).touch()
    with pytest.raises(SettingsError, match=absent):
        credentials(tmp_path, Sae("sae-0", "n", "https://n", "east"))
