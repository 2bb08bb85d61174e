"""Settings that would give an SAE two homes, or two foreign KMSs one name, are refused at the start."""

import pytest
from pydantic import ValidationError

from node.settings import ForeignKmsSettings, NodeSettings


def kms(name: str, *saes: str) -> ForeignKmsSettings:
    return ForeignKmsSettings(name=name, url="https://kms:8020", saes=saes, certificate_name="kms.example")


@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        ((kms("one", "a"),), "SAEs are at home once.*: a"),
        ((kms("one", "x"), kms("other", "x")), "SAEs are at home once.*: x"),
        ((kms("one", "x"), kms("one", "y")), "a name of its own"),
    ],
)
def test_sae_with_two_homes_or_kms_without_a_name_of_its_own_is_refused(
    foreign: tuple[ForeignKmsSettings, ...], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        NodeSettings(node="n", domain="d", site="s", saes=("a",), foreign_kms=foreign)


def test_saes_of_several_foreign_kms_beside_own_ones_are_accepted() -> None:
    foreign = (kms("one", "x1", "x2"), kms("other", "y"))
    settings = NodeSettings(node="n", domain="d", site="s", saes=("a",), foreign_kms=foreign)
    assert settings.foreign_kms == foreign
