"""Which `tc` commands give an interface its impairments, and what a refusal of `tc` means.

Pure: nothing here runs a command. One impairment alone on an interface is a netem at the root; impairments told apart
by source subnet are htb classes with netem leaves and u32 filters. What else a router does is not decided here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

# The queue a rate limit may build before it drops, in time: a usual figure for an access line.
RATE_QUEUE_MS = 100.0
# netem counts its limit in packets. A mean packet this small keeps the limit on the generous side.
MEAN_PACKET_BYTES = 600
# The limit of a link without a rate is computed for this one.
UNLIMITED_MBPS = 1000.0
SMALLEST_LIMIT_PACKETS = 100
# netem keeps packets in order only when it has a rate; this one is too high to be felt.
ORDER_KEEPING_RATE = "10gbit"


@dataclass(frozen=True)
class Impairment:
    """One direction of one link: packets that leave by `out`'s interface, and come from `src` when it is given."""

    link: str
    out: str
    src: str | None
    delay_ms: float
    jitter_ms: float
    loss_percent: float
    rate_mbps: float | None

    @classmethod
    def from_settings(cls, entry: Mapping[str, Any]) -> "Impairment":
        """Read one entry of the router's settings; raises KeyError or ValueError when it is not well formed."""
        rate = entry["rate_mbps"]
        return cls(
            link=str(entry["link"]),
            out=str(entry["out"]),
            src=None if entry["src"] is None else str(entry["src"]),
            delay_ms=float(entry["delay_ms"]),
            jitter_ms=float(entry["jitter_ms"]),
            loss_percent=float(entry["loss_percent"]),
            rate_mbps=None if rate is None else float(rate),
        )


class Refusal(Enum):
    """Why `tc` refused."""

    NO_NETEM = "the kernel has no netem"
    NO_TC = "the image has no tc"
    NOT_PERMITTED = "the router lacks NET_ADMIN"
    NO_DEVICE = "the interface is gone"
    NO_DISTRIBUTION = "iproute2's distribution tables are missing"
    OTHER = "tc refused"


# In this order: the texts of tc and of the kernel, lower case.
_REFUSALS = (
    ("is not installed", Refusal.NO_TC),
    ("no distribution data", Refusal.NO_DISTRIBUTION),
    ("cannot find device", Refusal.NO_DEVICE),
    ("no such device", Refusal.NO_DEVICE),
    ("operation not permitted", Refusal.NOT_PERMITTED),
    ("qdisc kind is unknown", Refusal.NO_NETEM),
    ("unknown qdisc", Refusal.NO_NETEM),
    ("operation not supported", Refusal.NO_NETEM),
    ("not found", Refusal.NO_NETEM),
    ("no such file or directory", Refusal.NO_NETEM),
)


def refusal_of(stderr: str) -> Refusal:
    """Tell from what `tc qdisc replace` printed why it refused."""
    text = stderr.lower()
    return next((refusal for words, refusal in _REFUSALS if words in text), Refusal.OTHER)


def netem_arguments(impairment: Impairment) -> list[str]:
    """Return the words from `netem` on: the limit, then `link_arguments`, with a rate wherever order depends on it."""
    words = ["netem", "limit", str(limit_packets(impairment)), *link_arguments(impairment)]
    if impairment.jitter_ms and impairment.rate_mbps is None:
        words += ["rate", ORDER_KEEPING_RATE]
    return words


def link_arguments(impairment: Impairment) -> list[str]:
    """Return what is done to the packets in netem's words, whichever backend does it."""
    words = ["delay", f"{impairment.delay_ms:g}ms"]
    if impairment.jitter_ms:
        words.append(f"{impairment.jitter_ms:g}ms")
    if impairment.loss_percent:
        words += ["loss", f"{impairment.loss_percent:g}%"]
    if impairment.rate_mbps is not None:
        words += ["rate", f"{impairment.rate_mbps * 1000:.0f}kbit"]
    return words


def limit_packets(impairment: Impairment) -> int:
    """Return how many packets netem must be able to hold: rate x (delay + jitter + `RATE_QUEUE_MS`)."""
    rate = UNLIMITED_MBPS if impairment.rate_mbps is None else impairment.rate_mbps
    held_bytes = rate * 1e3 / 8 * (impairment.delay_ms + impairment.jitter_ms + RATE_QUEUE_MS)
    return max(SMALLEST_LIMIT_PACKETS, math.ceil(held_bytes / MEAN_PACKET_BYTES))


def interface_commands(device: str, impairments: Sequence[Impairment], root_now: str | None) -> list[list[str]]:
    """Return the `tc` commands that make `impairments` the only ones of `device`.

    `root_now` is the handle of the root qdisc in force (`root_handle`). Nothing is deleted before its successor is
    there: a netem is changed in place, an htb (which cannot be changed) is replaced by one with another handle.
    """
    if len(impairments) == 1 and impairments[0].src is None:
        return [["tc", "qdisc", "replace", "dev", device, "root", *netem_arguments(impairments[0])]]
    major = "2" if root_now == "1:" else "1"
    default = next((number for number, one in enumerate(impairments, 1) if one.src is None), 0)
    commands = [
        ["tc", "qdisc", "replace", "dev", device, "root", "handle", f"{major}:", "htb", "default", f"{default:x}"]
    ]
    for number, impairment in enumerate(impairments, 1):
        commands += _class_commands(device, major, f"{major}:{number:x}", impairment)
    return commands


def _class_commands(device: str, major: str, class_id: str, impairment: Impairment) -> list[list[str]]:
    on_device, parent = ["dev", device], ["parent", f"{major}:"]
    # The class itself limits nothing: the rate is netem's, so that both forms of the same link behave alike.
    htb = ["htb", "rate", ORDER_KEEPING_RATE, "quantum", "60000"]
    commands = [
        ["tc", "class", "replace", *on_device, *parent, "classid", class_id, *htb],
        ["tc", "qdisc", "replace", *on_device, "parent", class_id, *netem_arguments(impairment)],
    ]
    if impairment.src is not None:
        match = ["u32", "match", "ip", "src", impairment.src, "flowid", class_id]
        commands.append(["tc", "filter", "replace", *on_device, *parent, "protocol", "ip", "prio", "1", *match])
    return commands


def root_handle(qdisc_listing: str) -> str | None:
    """Find the handle of the root qdisc in the output of `tc qdisc show dev DEVICE`; None for the default qdisc."""
    for line in qdisc_listing.splitlines():
        words = line.split()
        if len(words) > 3 and words[0] == "qdisc" and words[3] == "root" and words[2] != "0:":
            return words[2]
    return None
