"""The load test for plain Locust, web interface included: `locust -f loadtests/locustfile.py`.

Locust decides about users and duration; pairs, pace and key sizes are our options. One process only: the keys of a
distributed run would be tallied in each worker apart.
"""

from argparse import ArgumentParser
from typing import Any

import locust

from loadtests import report
from loadtests.load_run import add_options, load_run
from loadtests.sae_users import SaePairUser
from loadtests.settings import SettingsError

__all__ = ["SaePairUser"]

# Locust's hooks carry no types.
events: Any = locust.events


def _add_options(parser: ArgumentParser) -> None:
    add_options(parser)


def _refuse_bad_settings(environment: Any, **_: Any) -> None:
    try:
        load_run(environment.parsed_options)
    except SettingsError as error:
        raise SystemExit(f"loadtests: {error}") from error


def _start(environment: Any) -> None:
    SaePairUser.begin(load_run(environment.parsed_options))
    # An exchange under way is finished: two requests, none of which outlasts its time-out.
    environment.stop_timeout = max(environment.stop_timeout or 0, 2 * SaePairUser.run_plan.timeout_s)


def _stop(**_: Any) -> None:
    SaePairUser.end()


def _report(environment: Any) -> None:
    measurements = SaePairUser.run_plan.measurements
    document = report.result(measurements, measurements.elapsed_s())
    print(report.table(document))
    environment.process_exit_code = 0 if report.passed(document) else 1


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_refuse_bad_settings)
events.test_start.add_listener(_start)
events.test_stopping.add_listener(_stop)
events.test_stop.add_listener(_report)
