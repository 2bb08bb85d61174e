"""Whole nodes on suites that need liboqs: keys advertised, a key sealed and carried, key pairs stored and reopened."""

from pathlib import Path

import pytest

from node.core.directory import MAX_ADVERT_BYTES
from node.crypto.kem_liboqs import enabled_mechanisms
from node.crypto.suites import SUITES
from node.wire.federation import END_TO_END, HYBRID_TRANSPORT
from tests.unit.core.relay_pair import KEM_LIFETIME_S, KEY, Pair

pytestmark = pytest.mark.node_image

# Their public keys, 524 kB each, make an advert longer than neighbours take.
TOO_LONG = {name for name in SUITES if "mceliece460896" in name}


@pytest.mark.parametrize("suite", sorted(set(SUITES) - TOO_LONG))
async def test_key_travels_under_the_suite_across_a_rotation_and_a_restart(tmp_path: Path, suite: str) -> None:
    if not set(SUITES[suite].mechanisms) <= set(enabled_mechanisms()):
        pytest.skip("not enabled in this liboqs")
    pair = await Pair(tmp_path, {"n1": (suite, "mlkem768-v1"), "n2": ("mlkem768-v1", suite)}).start()
    message = await pair.send()
    assert message["extension_mandatory"][HYBRID_TRANSPORT]["suite"] == suite
    assert message["extension_mandatory"][END_TO_END]["suite"] == suite
    pair.clock.time += KEM_LIFETIME_S / 2 + 1
    await pair.n2.restart()
    pair.meet()
    assert await pair.deliver(message) == KEY
    pair.close()


@pytest.mark.parametrize("suite", sorted(TOO_LONG))
async def test_advert_with_keys_too_long_to_pass_on_is_refused_and_says_so(tmp_path: Path, suite: str) -> None:
    pair = Pair(tmp_path, {"n2": (suite,)})
    with pytest.raises(Exception, match=f"longer than {MAX_ADVERT_BYTES} bytes"):
        await pair.start()
    pair.close()
