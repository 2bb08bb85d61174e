"""The kernel's packet queue (NFQUEUE) over netlink: messages packed and parsed, and the socket that carries them.

Layout from linux/netlink.h and linux/netfilter/nfnetlink_queue.h: netlink headers in host order, attribute contents in
network order. When a packet is let go is decided in `delay_line`.
"""

import os
import socket
import struct
from collections.abc import Callable

NETLINK_NETFILTER = 12
NLMSG_ERROR = 2
NLM_F_REQUEST, NLM_F_ACK = 1, 4
# Message types: subsystem NFNL_SUBSYS_QUEUE (3) in the high byte.
PACKET, VERDICT, CONFIG, VERDICT_BATCH = 0x300, 0x301, 0x302, 0x303
NF_DROP, NF_ACCEPT = 0, 1

_NFQA_PACKET_HDR, _NFQA_PAYLOAD, _NFQA_CAP_LEN, _NFQA_VERDICT_HDR = 1, 10, 13, 2
_CFG_CMD, _CFG_PARAMS, _CFG_QUEUE_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_BIND, _COPY_PACKET = 1, 2
# With F_GSO the kernel hands over large segments whole. F_FAIL_OPEN stays off: a queue that overflows drops.
_F_GSO = 4
# So much of each packet is copied: enough for the kernel to add its true length as CAP_LEN.
_COPIED_BYTES = 20
_SO_RCVBUFFORCE, _SOL_NETLINK, _NETLINK_NO_ENOBUFS = 33, 270, 5
_RECEIVE_BUFFER_BYTES = 32 << 20

_HEADER = struct.Struct("=IHHII")
_NFGENMSG_BYTES = 4
_LENGTH_AND_TYPE = struct.Struct("=IH")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct(">I")


def attribute(kind: int, content: bytes) -> bytes:
    """Pack one netlink attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(content)
    return _ATTRIBUTE.pack(length, kind) + content + bytes(-length % 4)


def message(kind: int, queue: int, attributes: bytes, flags: int = NLM_F_REQUEST) -> bytes:
    """Pack one message about `queue` (nfgenmsg: family unspecified, version 0, the queue as res_id)."""
    body = struct.pack(">BBH", 0, 0, queue) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def configuration_messages(queue: int, length_packets: int) -> list[bytes]:
    """Return what binds `queue`, in order: bind, copy range, length, flags. Each asks for an acknowledgement."""
    settings = (
        attribute(_CFG_CMD, struct.pack(">BxH", _BIND, socket.AF_INET)),
        attribute(_CFG_PARAMS, struct.pack(">IB", _COPIED_BYTES, _COPY_PACKET)),
        attribute(_CFG_QUEUE_MAXLEN, _U32.pack(length_packets)),
        attribute(_CFG_FLAGS, _U32.pack(_F_GSO)) + attribute(_CFG_MASK, _U32.pack(_F_GSO)),
    )
    return [message(CONFIG, queue, setting, NLM_F_REQUEST | NLM_F_ACK) for setting in settings]


def verdict_message(queue: int, packet_id: int, verdict: int, *, and_earlier: bool = False) -> bytes:
    """Pack the verdict on one packet, or on it and every one queued before it."""
    kind = VERDICT_BATCH if and_earlier else VERDICT
    return message(kind, queue, attribute(_NFQA_VERDICT_HDR, struct.pack(">II", verdict, packet_id)))


def parse_packets(datagram: bytes) -> list[tuple[int, int]]:
    """Return (packet ID, length in bytes) of every packet message; other messages are passed over."""
    packets, offset = [], 0
    while offset + _HEADER.size <= len(datagram):
        length, kind = _LENGTH_AND_TYPE.unpack_from(datagram, offset)
        if kind == PACKET:
            packets.append(_id_and_length(datagram, offset + _HEADER.size + _NFGENMSG_BYTES, offset + length))
        offset += max(length + 3 & ~3, _HEADER.size)
    return packets


def _id_and_length(datagram: bytes, offset: int, end: int) -> tuple[int, int]:
    packet_id = copied = whole = 0
    while offset + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(datagram, offset)
        if kind == _NFQA_PACKET_HDR:
            packet_id = _U32.unpack_from(datagram, offset + _ATTRIBUTE.size)[0]
        elif kind == _NFQA_PAYLOAD:
            copied = length - _ATTRIBUTE.size
        elif kind == _NFQA_CAP_LEN:
            whole = _U32.unpack_from(datagram, offset + _ATTRIBUTE.size)[0]
        offset += max(length + 3 & ~3, _ATTRIBUTE.size)
    return packet_id, whole or copied


def acknowledgement_error(datagram: bytes) -> int:
    """Return the errno in the kernel's answer to a configuration message; 0 is success."""
    kind = _LENGTH_AND_TYPE.unpack_from(datagram)[1]
    return -int(struct.unpack_from("=i", datagram, _HEADER.size)[0]) if kind == NLMSG_ERROR else 0


class PacketQueue:
    """One bound queue. Raises OSError when the kernel has no NFQUEUE or the process no NET_ADMIN."""

    def __init__(self, number: int, length_packets: int) -> None:
        self._number = number
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._make_room()
            for configuration in configuration_messages(number, length_packets):
                self._configure(configuration)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def _make_room(self) -> None:
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        except PermissionError:
            # In a user namespace the host's limit (net.core.rmem_max) holds.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)

    def _configure(self, configuration: bytes) -> None:
        self._socket.send(configuration)
        error = acknowledgement_error(self._socket.recv(65536))
        if error:
            raise OSError(error, os.strerror(error))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def receive(self, most: int, take: Callable[[int, int], None]) -> None:
        """Hand (packet ID, length in bytes) of at most `most` waiting messages to `take`; never blocks."""
        for _ in range(most):
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return
            for packet_id, length_bytes in parse_packets(datagram):
                take(packet_id, length_bytes)

    def drop(self, packet_id: int) -> None:
        """Drop one packet."""
        self._socket.send(verdict_message(self._number, packet_id, NF_DROP))

    def release_up_to(self, packet_id: int) -> None:
        """Let this packet and every one queued before it go on."""
        self._socket.send(verdict_message(self._number, packet_id, NF_ACCEPT, and_earlier=True))

    def close(self) -> None:
        """Give the queue back; the kernel drops what it holds."""
        self._socket.close()
