"""`python -m tests.simulation`: one seed with its trace, many seeds, or the table of mutants."""

import argparse
import sys
import time

from tests.simulation.campaign import campaign, hunt, replay_command, with_fixed_hashes
from tests.simulation.mutants import MUTANTS, applied
from tests.simulation.simulation import Report, simulate

SEEDS_PER_MUTANT = 120
LINES_SHOWN = 60


def main() -> int:
    """Run what the command line asks for; returns 1 if anything is amiss."""
    with_fixed_hashes()
    options = _options()
    if options.mutants:
        return _mutants(options.jobs)
    if options.seed is not None:
        return _one(options.seed, options.trace, options.mutant)
    return _many(options.seeds, options.jobs, options.mutant)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: show all that happens")
    parser.add_argument("--seeds", type=_range, default=range(200), metavar="FIRST-LAST", help="run these")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break the core in this way first")
    parser.add_argument("--mutants", action="store_true", help="try every mutant and print what caught it")
    return parser.parse_args()


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _one(seed: int, trace: bool, mutant: str | None) -> int:
    with applied(mutant):
        report = simulate(seed, trace=trace)
    print(*report.lines, sep="\n")
    tally = report.tally
    print(
        f"seed {seed}: {report.virtual_s:.1f} virtual s, {report.messages} messages, {report.crashes} crashes, "
        f"{tally.orders} orders ({tally.served} served, {tally.refused} refused, {tally.unheard} unheard), "
        f"{tally.fetched} keys fetched, digest {report.digest}"
    )
    return _show([report], mutant)


def _many(seeds: range, jobs: int, mutant: str | None) -> int:
    begin, reports = time.monotonic(), []
    for report in campaign(seeds, jobs, mutant):
        reports.append(report)
        if report.violations:
            _show([report], mutant)
        if len(reports) % 50 == 0:
            speed = len(reports) / (time.monotonic() - begin)
            print(f"{len(reports)} of {len(seeds)} seeds, {speed:.1f} a second", file=sys.stderr)
    bad = [report for report in reports if report.violations]
    if bad:
        _show_end_of_trace(min(report.seed for report in bad), mutant)
    elapsed_s = time.monotonic() - begin
    tallies = [report.tally for report in reports]
    print(
        f"{len(reports)} seeds in {elapsed_s:.0f} s ({len(reports) / elapsed_s:.1f} a second), "
        f"{sum(tally.orders for tally in tallies)} orders, {sum(report.crashes for report in reports)} crashes, "
        f"{sum(tally.fetched for tally in tallies)} keys fetched, "
        f"{sum(tally.orphans for tally in tallies)} left to expire; {len(bad)} seeds with violations"
    )
    return 1 if bad else 0


def _mutants(jobs: int) -> int:
    survivors = 0
    print(f"{'mutant':<48} {'seed':>4}  caught by")
    for name, caught in zip(MUTANTS, hunt(MUTANTS, range(SEEDS_PER_MUTANT), jobs), strict=True):
        survivors += caught is None
        shown = f"{caught.seed:>4}  {caught.violations[0].truth}" if caught else "   -  nothing: it survives"
        print(f"{name:<48} {shown}", flush=True)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants caught")
    return 1 if survivors else 0


def _show_end_of_trace(seed: int, mutant: str | None) -> None:
    with applied(mutant):
        lines = simulate(seed, trace=True).lines
    print(f"the end of seed {seed}:", *lines[-LINES_SHOWN:], sep="\n")


def _show(reports: list[Report], mutant: str | None) -> int:
    amiss = 0
    for report in reports:
        for violation in report.violations[:5]:
            print(f"seed {report.seed}: {violation}")
        if report.violations:
            amiss = 1
            print(f"    replay: {replay_command(report.seed, mutant)}")
    return amiss


if __name__ == "__main__":
    sys.exit(main())
