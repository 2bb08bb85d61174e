"""`three_hosts` is imported by the tests here and by the guest, which runs without pytest: both from the root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
