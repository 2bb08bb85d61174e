"""`python -m loadtests`: run the load test without web interface and report.

The result goes to stdout, progress to stderr. Exit code 0: every key issued was compared and equal; 1: a key differed
or is missing, or none was compared; 2: the test could not start. SIGINT and SIGTERM end the test early, not the report.
"""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence

import gevent
from gevent.event import Event
from locust.env import Environment

from loadtests import report
from loadtests.load_run import LoadRun, add_options, load_run, positive_integer, positive_seconds
from loadtests.sae_users import SaePairUser
from loadtests.settings import SettingsError

PROGRESS_INTERVAL_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        plan = load_run(options)
    except SettingsError as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return 2
    # Users start spread over one pace, so that they do not all ask in the same instant ever after.
    stopped_s = _run(plan, options.users, options.spawn_rate or options.users / options.pace_s, options.duration_s)
    document = report.result(plan.measurements, plan.measurements.elapsed_s(at_least_s=stopped_s))
    print(json.dumps(document) if options.json else report.table(document), flush=True)
    return 0 if report.passed(document) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests", description="Let SAE pairs agree on keys under load.")
    parser.add_argument("--users", type=positive_integer, required=True, help="SAE pairs at work at once")
    parser.add_argument("--duration-s", type=positive_seconds, required=True, help="length of the test")
    parser.add_argument("--spawn-rate", type=positive_seconds, help="users per second; by default all within one pace")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    add_options(parser)
    return parser


def _run(plan: LoadRun, users: int, spawn_rate: float, duration_s: float) -> float:
    """Return the seconds after which the users were told to stop; comes back when the last has."""
    # An exchange under way is finished: two requests, none of which outlasts its time-out.
    environment = Environment(user_classes=[SaePairUser], stop_timeout=2 * plan.timeout_s)
    runner = environment.create_local_runner()
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stop.set)
    SaePairUser.begin(plan)
    runner.start(users, spawn_rate)
    while not stop.wait(max(min(PROGRESS_INTERVAL_S, duration_s - plan.measurements.running_s()), 0)):
        if plan.measurements.running_s() >= duration_s:
            break
        print(report.progress(plan.measurements), file=sys.stderr, flush=True)
    stopped_s = plan.measurements.running_s()
    SaePairUser.end()
    runner.quit()
    return stopped_s


if __name__ == "__main__":
    sys.exit(main())
