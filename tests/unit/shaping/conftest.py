"""The router's modules lie side by side in its image; here too they are found as top-level modules."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "router"))
