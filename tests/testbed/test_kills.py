"""Nodes killed at random under load, for a short while; `kill_campaign` run by hand does it 200 times."""

from tests.testbed.conftest import Bed
from tests.testbed.kill_campaign import Campaign
from topology.docker_runtime import DockerEngine
from topology.testbed import look_up

KILLS = 20


def test_killed_nodes_lose_no_acknowledged_key_and_use_none_again(three_regions: Bed) -> None:
    seed = 20604
    tally = Campaign(look_up(DockerEngine(), three_regions.name), KILLS, seed, print).run()
    print(tally.report())
    assert tally.kills == KILLS
    assert tally.findings == []
    assert tally.holds
