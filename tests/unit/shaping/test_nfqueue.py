"""Netlink messages of the packet queue, byte for byte. Host order is that of x86 and ARM, little-endian."""

import errno
import sys

import nfqueue
import pytest

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the golden bytes are little-endian")


def packet_message(packet_id: int, payload: bytes, whole_length: int | None = None) -> bytes:
    attributes = nfqueue.attribute(1, packet_id.to_bytes(4, "big") + b"\x08\x00\x04")
    attributes += nfqueue.attribute(5, bytes(4)) + nfqueue.attribute(10, payload)
    if whole_length is not None:
        attributes += nfqueue.attribute(13, whole_length.to_bytes(4, "big"))
    return nfqueue.message(nfqueue.PACKET, 3, attributes, flags=0)


def test_a_verdict_is_packed_for_one_packet() -> None:
    assert nfqueue.verdict_message(7, 0x01020304, nfqueue.NF_DROP).hex(" ", 4) == (
        "20000000 01030100 00000000 00000000 00000007 0c000200 00000000 01020304"
    )


def test_a_batch_verdict_has_its_own_type() -> None:
    one = nfqueue.verdict_message(7, 9, nfqueue.NF_ACCEPT)
    batch = nfqueue.verdict_message(7, 9, nfqueue.NF_ACCEPT, and_earlier=True)
    assert (one[4:6], batch[4:6]) == (b"\x01\x03", b"\x03\x03")
    assert one[6:] == batch[6:]


def test_a_queue_is_bound_then_set_up_and_never_fails_open() -> None:
    bind, copy, length, flags = nfqueue.configuration_messages(2, 1024)
    assert bind.hex(" ", 4) == "1c000000 02030500 00000000 00000000 00000002 08000100 01000002"
    assert copy[20:].hex() == "09000200" + "00000014" + "02" + "000000"
    assert length[20:].hex() == "08000300" + "00000400"
    assert flags[20:].hex() == "08000500" + "00000004" + "08000400" + "00000004"


def test_attributes_are_padded_to_four_bytes_and_say_their_unpadded_length() -> None:
    assert nfqueue.attribute(10, b"abcde").hex() == "09000a00" + "6162636465" + "000000"


def test_a_truncated_packet_counts_with_its_whole_length() -> None:
    assert nfqueue.parse_packets(packet_message(5, bytes(20), whole_length=64000)) == [(5, 64000)]


def test_a_short_packet_counts_with_what_was_copied() -> None:
    assert nfqueue.parse_packets(packet_message(6, bytes(19))) == [(6, 19)]


def test_several_messages_in_one_datagram_are_all_seen_and_errors_passed_over() -> None:
    error = nfqueue.message(nfqueue.NLMSG_ERROR, 0, bytes(16))
    datagram = packet_message(1, bytes(17)) + error + packet_message(2, bytes(20), 1500)
    assert nfqueue.parse_packets(datagram) == [(1, 17), (2, 1500)]


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_message_that_claims_to_have_no_length_does_not_hang_the_router(length: int) -> None:
    datagram = length.to_bytes(4, "little") + packet_message(1, bytes(20))[4:]
    assert nfqueue.parse_packets(datagram) in ([], [(0, 0)])


def test_the_kernels_refusal_is_read_from_its_acknowledgement() -> None:
    def answer(code: int) -> bytes:
        return nfqueue.message(nfqueue.NLMSG_ERROR, 0, b"")[:16] + code.to_bytes(4, "little", signed=True)

    assert nfqueue.acknowledgement_error(answer(-errno.EPERM)) == errno.EPERM
    assert nfqueue.acknowledgement_error(answer(0)) == 0
