"""Python runs this at its start when this folder is on PYTHONPATH: it arms a fault in a command and in its ranks."""

import os
import sys
from pathlib import Path

if "REPEL_FAULT" in os.environ:
    sys.path.append(str(Path(__file__).parents[1]))
    import faults

    faults.arm_when_imported(os.environ["REPEL_FAULT"])
