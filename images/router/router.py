"""A region's router: addresses, routes and impairments from one settings file, then the delay lines or nothing.

It starts from whatever it finds: a restarted container has lost everything, a reloaded one (SIGHUP) has it all. SIGTERM
ends it at once. Standard library only; partitions are `topology`'s, by DROP rules in the filter table.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, NoReturn

import delay_line
from commands import CommandRefused
from interfaces import (
    Gateway,
    Route,
    RouterError,
    add_gateways,
    add_routes,
    forward_packets,
    wait_for_interfaces,
)
from shaping import Shaping, shape
from tc_arguments import Impairment

_WISHES = ("required", "best-effort", "off")


@dataclass(frozen=True)
class Settings:
    """/etc/router/settings.json."""

    router: str
    gateways: tuple[Gateway, ...]
    routes: tuple[Route, ...]
    shaping: str
    impairments: tuple[Impairment, ...]

    def subnets(self) -> set[IPv4Network]:
        """Return the subnets, and the neighbours as /32, to which the router needs an interface."""
        sites = {gateway.subnet for gateway in self.gateways}
        return (
            sites | {IPv4Network(route.via) for route in self.routes} | {IPv4Network(o.out) for o in self.impairments}
        )


def main(arguments: Sequence[str]) -> int:
    """Run the router; returns an exit status only when it cannot do its work."""
    parser = argparse.ArgumentParser(description="Route and shape between the networks of a region.")
    parser.add_argument("--settings", type=Path, default=Path("/etc/router/settings.json"))
    parser.add_argument("--state", type=Path, default=Path("/run/router/state.json"))
    paths = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGHUP, _start_over)
    paths.state.unlink(missing_ok=True)
    try:
        settings = read_settings(paths.settings)
        shaping = bring_up(settings)
    except (RouterError, CommandRefused) as error:
        print(f"router: {error}", file=sys.stderr, flush=True)
        write_state(paths.state, {"ready": False, "backend": "none", "reason": str(error), "applied": []})
        return 1
    state = {"ready": True, "backend": shaping.backend, "reason": shaping.reason, "applied": shaping.applied}
    write_state(paths.state, state)
    print(f"{settings.router}: ready, backend {shaping.backend} {shaping.reason}".rstrip(), flush=True)
    return serve(shaping)


def read_settings(path: Path) -> Settings:
    """Read the settings; raises RouterError that says what is wrong with the file."""
    try:
        content = json.loads(path.read_text())
        settings = Settings(
            router=str(content["router"]),
            gateways=tuple(Gateway(IPv4Network(g["subnet"]), IPv4Address(g["address"])) for g in content["gateways"]),
            routes=tuple(Route(IPv4Network(r["subnet"]), IPv4Address(r["via"])) for r in content["routes"]),
            shaping=str(content["shaping"]),
            impairments=tuple(Impairment.from_settings(entry) for entry in content["impairments"]),
        )
        settings.subnets()
    except KeyError as error:
        raise RouterError(f"{path}: {error} is missing") from error
    except (OSError, ValueError, TypeError) as error:
        raise RouterError(f"{path}: {error}") from error
    if settings.shaping not in _WISHES:
        raise RouterError(f"{path}: shaping is {settings.shaping!r}, not one of {', '.join(_WISHES)}")
    return settings


def bring_up(settings: Settings) -> Shaping:
    """Make the router what `settings` say; raises RouterError or CommandRefused."""
    names = wait_for_interfaces(settings.subnets())
    forward_packets(names.values())
    add_gateways(settings.gateways, names)
    add_routes(settings.routes)
    return shape(settings.shaping, settings.impairments, names)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state so that a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(state))
    draft.replace(path)


def serve(shaping: Shaping) -> NoReturn:
    """Work, or wait, until a signal comes."""
    if shaping.lines:
        delay_line.run(shaping.lines)
    while True:
        signal.pause()


def _end(_number: int, _frame: object) -> NoReturn:
    # The kernel takes back queues, sockets and held packets; there is nothing to say good-bye to.
    os._exit(0)


def _start_over(_number: int, _frame: object) -> NoReturn:
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606  The same program with the same words.


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
