"""Where tests find the checkout and the shared data beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
SCRIPTS = ROOT / "tests" / "support" / "processes"
"""Scripts that tests start in processes of their own."""
