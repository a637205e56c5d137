"""What the tests of simplifying share with each other and with those of surgery."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1] / "models")]  # for `import hand_made` and `import kinds`
