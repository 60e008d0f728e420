"""What the processes of a lane on the head node load."""

import subprocess
import sys


def test_driver_and_controller_need_no_torch():
    script = "import sys, orchestrator.lanes.lane_pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
