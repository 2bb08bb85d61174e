"""No core dump of a node, and no reading of its memory by others of its user, even when it crashes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

CRASHES = """
import ctypes, os, resource, subprocess, sys
from node.__main__ import keep_memory_private
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
prctl = ctypes.CDLL(None).prctl
before = prctl(3, 0, 0, 0, 0)
keep_memory_private()
print(before, prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
# What a node still needs of /proc and of children.
print(len(os.listdir("/proc/self/fd")) > 2, subprocess.run([sys.executable, "-c", "print('child')"], text=True,
      capture_output=True).stdout.strip(), flush=True)
os.abort()
"""


def test_crash_leaves_no_core(tmp_path: Path) -> None:
    crashed = subprocess.Popen(
        [sys.executable, "-c", CRASHES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert crashed.stdout is not None
    said = crashed.stdout.read().splitlines()
    _pid, status = os.waitpid(crashed.pid, 0)
    assert said == ["1 0 (0, 0)", "True child"]
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)
    assert list(tmp_path.iterdir()) == []
