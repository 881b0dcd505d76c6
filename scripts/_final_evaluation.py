"""The default run by the code of one checkout: seconds and metrics of the evaluation at its end, as a line of JSON.

python scripts/_final_evaluation.py CHECKOUT [key=value ...]
"""

import contextlib
import io
import json
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}


def timed(finish: Callable[..., Any], found: dict[str, Any]) -> Callable[..., Any]:
    """What evaluates a run at its end, and keeps its seconds and the run's folder."""

    def timed_finish(config: Any, folder: Path, data: Any) -> Any:
        started = {name: clock() for name, clock in CLOCKS.items()}
        objective = finish(config, folder, data)
        found.update({name: clock() - started[name] for name, clock in CLOCKS.items()}, folder=folder)
        return objective

    return timed_finish


def main() -> None:
    checkout, found = Path(sys.argv[1]).resolve(), {}
    sys.path.insert(0, str(checkout / "src"))
    # version 0.1 had another module
    report = import_module("repel.report.evaluate" if find_spec("repel.report") else "repel.evaluation.report")
    report.finish = timed(report.finish, found)
    sys.argv = [str(checkout / "train.py"), *sys.argv[2:]]
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(sys.argv[0], run_name="__main__")
        folder = found.pop("folder")
        found["metrics"] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        records = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["records"]
    found["l2"] = {one["metric"]: one["settings"]["l2"] for one in records if "l2" in one["settings"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
