"""What stands for a parcel whose keys were acknowledged one after the other."""

import pytest

from node.core.outcomes import Outcome, weaker
from node.wire.etsi020 import AckStatus
from node.wire.federation import HopProtection

QKD: tuple[HopProtection, ...] = ("qkd+pqc", "qkd+pqc")
MIXED: tuple[HopProtection, ...] = ("qkd+pqc", "pqc")
WAY = ("n1", "n2", "n3")

BEST = Outcome(AckStatus.RELAYED, WAY, QKD)
LESS = Outcome(AckStatus.RELAYED, WAY, MIXED)
UNTOLD = Outcome(AckStatus.RELAYED)
FAILED = Outcome(AckStatus.FAILED, message="no room")


@pytest.mark.parametrize(("one", "other", "both"), [(BEST, LESS, LESS), (BEST, UNTOLD, UNTOLD), (BEST, FAILED, FAILED)])
def test_keys_acknowledged_apart_are_worth_the_least_of_what_was_said(
    one: Outcome, other: Outcome, both: Outcome
) -> None:
    assert weaker(one, other) == weaker(other, one) == both
