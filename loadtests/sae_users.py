"""The users of the load test: each is a pair of SAEs that agree on keys, over and over.

The master asks its node for keys, the slave asks its own node for the same IDs, and the bytes are compared here,
where both ends happen to be at hand. Handing the IDs over is outside ETSI GS QKD 014, and here a function call.
"""

from typing import ClassVar

from locust import User, constant_pacing, task

from loadtests.load_run import LoadRun
from loadtests.sae_client import Call, RequestFailedError


class SaePairUser(User):
    """One SAE pair with two connections of its own; `begin` comes before the first user, `end` before the stop."""

    run_plan: ClassVar[LoadRun]
    stopping: ClassVar[bool] = False

    @classmethod
    def begin(cls, run_plan: LoadRun) -> None:
        """Set the plan and start its clock."""
        cls.run_plan, cls.stopping = run_plan, False
        run_plan.measurements.start()

    @classmethod
    def end(cls) -> None:
        """Let no exchange begin any more; to be called before Locust stops its users."""
        cls.stopping = True

    def wait_time(self) -> float:
        """Seconds until the next exchange is due, so that the pace holds whatever the last one took."""
        return constant_pacing(self.run_plan.pace_s)(self)

    def on_start(self) -> None:
        """Take the next pair and connect both SAEs."""
        self.pair = self.run_plan.next_pair()
        self.master = self.run_plan.client(self.pair.master, self._observe)
        self.slave = self.run_plan.client(self.pair.slave, self._observe)
        self.master.connect(self.pair.slave)
        self.slave.connect(self.pair.master)

    def on_stop(self) -> None:
        """Close both connections."""
        self.master.close()
        self.slave.close()

    @task
    def exchange(self) -> None:
        """Agree on keys once and compare them."""
        # Locust kills users that wait, and one whose wait ends in that instant would die with a key under way.
        if self.stopping:
            return
        tally = self.run_plan.measurements
        try:
            issued = self.master.enc_keys(self.pair.slave, self.run_plan.number, self.run_plan.size_bits)
        except RequestFailedError:
            return
        tally.issue(issued)
        try:
            fetched, reason = self.slave.dec_keys(self.pair.master, issued), "not in the node's answer"
        except RequestFailedError as error:
            fetched, reason = {}, str(error)
        tally.compare(self.pair, issued, fetched, reason)

    def _observe(self, call: Call, latency_ms: float, failure: RequestFailedError | None) -> None:
        self.run_plan.measurements.observe(call, latency_ms, failure)
        # Locust's own statistics get the figures; the response, which holds keys, stays out of its hands.
        self.environment.events.request.fire(
            request_type="POST",
            name=call.value,
            response_time=latency_ms,
            response_length=0,
            exception=failure,
            response=None,
            context={},
        )
