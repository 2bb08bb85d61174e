"""The default testbed: every pair of SAEs in three regions holds identical keys, also under load."""

import json
from itertools import pairwise

import pytest

from tests.testbed.conftest import Bed

pytestmark = pytest.mark.docker


def test_every_ordered_pair_is_identical_with_the_grade_and_path_of_its_way(three_regions: Bed) -> None:
    status = three_regions.invoke("status", "--json").document
    region = {sae: node["region"] for node in status["nodes"] for sae in node["saes"]}
    home = {sae: node["name"] for node in status["nodes"] for sae in node["saes"]}
    joined = {frozenset(link["between"]): link["kind"] for link in status["links"]}
    done = three_regions.invoke("exchange", "--all-pairs", "--json")
    assert done.code == 0, done.stdout
    exchanges = done.document["exchanges"]
    assert len(exchanges) == len(region) * (len(region) - 1)
    for one in exchanges:
        path = one["path"]
        kinds = {joined[frozenset(hop)] for hop in pairwise(path)}
        assert (path[0], path[-1]) == (home[one["master_sae"]], home[one["slave_sae"]])
        assert one["grade"] == ("pqc" if "wan" in kinds else "qkd")
        same_region = region[one["master_sae"]] == region[one["slave_sae"]]
        assert ("wan" in kinds) is not same_region


def test_load_leaves_nothing_different_and_nothing_missing(three_regions: Bed) -> None:
    done = three_regions.invoke("load", "--users", "20", "--duration-s", "15", "--json")
    assert done.code == 0, done.stdout + done.stderr
    assert done.document["compared"] > 0
    assert done.document["different"] == done.document["missing"] == 0


def test_keys_go_the_other_way_round_when_a_border_node_is_gone(three_regions: Bed) -> None:
    three_regions.docker("pause", three_regions.container("kmstn3"))
    try:
        for _ in range(30):
            done = three_regions.invoke("exchange", "--master", "sae-vigo-3", "--slave", "sae-coruna-1", "--json")
            if done.code == 0:
                break
        assert done.code == 0, done.stdout
        assert json.loads(done.stdout)["exchanges"][0]["path"] == ["kmstn2", "kmstn5", "kmstn4"]
    finally:
        three_regions.docker("unpause", three_regions.container("kmstn3"))


def test_down_leaves_nothing(three_regions: Bed) -> None:
    assert three_regions.left_over()
    assert three_regions.invoke("down").code == 0
    assert three_regions.left_over() == []
