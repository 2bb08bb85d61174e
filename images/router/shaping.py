"""Which backend carries the impairments: netem where the kernel has it, else the NFQUEUE delay line, else none.

The backend is found by trying. Whether unshaped links are acceptable is the description's word (`shaping`).
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import commands
from commands import CommandRefused
from delay_line import DelayLine
from interfaces import RouterError
from nfqueue import PacketQueue
from tc_arguments import (
    Impairment,
    Refusal,
    interface_commands,
    link_arguments,
    netem_arguments,
    refusal_of,
    root_handle,
)

# The chain hangs in POSTROUTING, which sees what netem sees: all that leaves, the router's own packets too.
CHAIN = "ROUTER-DELAY"
_JUMP = ["POSTROUTING", "-j", CHAIN]
_QUEUE_LENGTH_PACKETS = 65536
# In Debian `iptables` is the nftables one, which needs NET_ADMIN alone; the legacy one needs NET_RAW as well.
_TABLE_TOOLS = ("iptables", "iptables-legacy")


@dataclass(frozen=True)
class Shaping:
    """What is in force: the backend, why not a better one, per impairment its arguments, and the lines to serve."""

    backend: str
    reason: str = ""
    applied: list[dict[str, Any]] = field(default_factory=list)
    lines: list[tuple[PacketQueue, DelayLine]] = field(default_factory=list)


def shape(wish: str, impairments: Sequence[Impairment], names: Mapping[IPv4Network, str]) -> Shaping:
    """Put `impairments` into force; `names` maps each subnet to its interface.

    Raises RouterError when `wish` is `required` and no backend works.
    """
    by_device = {} if wish == "off" else _by_device(impairments, names)
    _clear(set(names.values()) - set(by_device))
    if not by_device:
        return Shaping("none", "shaping is off" if wish == "off" else "no link of this router is impaired")
    try:
        return _netem(by_device)
    except CommandRefused as refused:
        refusal = refusal_of(refused.stderr)
        why_not_netem = f"netem: {refusal.value} ({refused})"
    _clear(by_device)
    why_not_queue = "not tried"
    if refusal in (Refusal.NO_NETEM, Refusal.NO_TC):
        try:
            return _delay_lines(by_device, why_not_netem)
        except (CommandRefused, OSError) as error:
            _clear(by_device)
            why_not_queue = str(error)
    reason = f"{why_not_netem}; NFQUEUE: {why_not_queue}"
    if wish == "required":
        raise RouterError(f"shaping is required and no backend works: {reason}")
    return Shaping("none", reason)


def _by_device(impairments: Sequence[Impairment], names: Mapping[IPv4Network, str]) -> dict[str, list[Impairment]]:
    by_device: dict[str, list[Impairment]] = {}
    for impairment in impairments:
        by_device.setdefault(names[IPv4Network(impairment.out)], []).append(impairment)
    return by_device


def _clear(devices: Iterable[str]) -> None:
    """Take away what an earlier start left: it may have been told something else."""
    for device in devices:
        with suppress(CommandRefused):
            commands.run(["tc", "qdisc", "del", "dev", device, "root"])
    for tool in _TABLE_TOOLS:
        with suppress(CommandRefused):
            commands.run([tool, "-w", "-t", "mangle", "-F", CHAIN])


def _netem(by_device: Mapping[str, Sequence[Impairment]]) -> Shaping:
    applied = []
    for device, impairments in by_device.items():
        root_now = root_handle(commands.run(["tc", "qdisc", "show", "dev", device]))
        for command in interface_commands(device, impairments, root_now):
            commands.run(command)
        applied += [_entry(one, ["dev", device, *netem_arguments(one)]) for one in impairments]
    return Shaping("netem", "", applied)


def _entry(impairment: Impairment, arguments: list[str]) -> dict[str, Any]:
    return {"link": impairment.link, "out": impairment.out, "src": impairment.src, "arguments": arguments}


def _delay_lines(by_device: Mapping[str, Sequence[Impairment]], why_not_netem: str) -> Shaping:
    # A rule without a source matches everything, so it comes after those of its interface that have one.
    placed = [
        (device, one)
        for device, impairments in by_device.items()
        for one in sorted(impairments, key=lambda impairment: impairment.src is None)
    ]
    chance = random.Random()  # noqa: S311  Chance of losing a packet, nothing secret.
    lines, applied = [], []
    for number, (device, one) in enumerate(placed):
        lines.append((PacketQueue(number, _QUEUE_LENGTH_PACKETS), DelayLine(one, chance.random)))
        words = ["dev", device, "nfqueue", str(number), *link_arguments(one)]
        applied.append(_entry(one, words))
    _install_rules(queue_rules([(device, one.src) for device, one in placed]))
    return Shaping("nfqueue", why_not_netem, applied, lines)


def queue_rules(matches: Sequence[tuple[str, str | None]]) -> str:
    """Return the input of `iptables-restore --noflush`: (interface, source subnet) number n goes to queue n."""
    rules = []
    for number, (device, source) in enumerate(matches):
        match = f"-o {device}" if source is None else f"-o {device} -s {source}"
        rules.append(f"-A {CHAIN} {match} -j NFQUEUE --queue-num {number} --queue-bypass")
    return "\n".join(["*mangle", f":{CHAIN} - [0:0]", *rules, "COMMIT", ""])


def _install_rules(rules: str) -> None:
    refusals = []
    for tool in _TABLE_TOOLS:
        try:
            commands.run([f"{tool}-restore", "-w", "--noflush"], rules)
            _hang_in_chain(tool)
        except CommandRefused as refused:
            refusals.append(str(refused))
        else:
            return
    raise OSError("; ".join(refusals))


def _hang_in_chain(tool: str) -> None:
    try:
        commands.run([tool, "-w", "-t", "mangle", "-C", *_JUMP])
    except CommandRefused:
        commands.run([tool, "-w", "-t", "mangle", "-A", *_JUMP])
