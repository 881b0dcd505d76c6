"""The final evaluation of a run, by the code of one checkout: prints its seconds and metrics as a line of JSON.

python scripts/_final_evaluation.py CHECKOUT RUN
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def edition() -> tuple[Any, Any, Any, Any]:
    """What reads a run's config, what makes it whole, what builds the data, and what evaluates at the end."""
    if find_spec("repel.engine"):
        return (
            import_module("repel.engine.runs").read_config,
            import_module("repel.engine.configs").load_config,
            import_module("repel.engine.build").build_data,
            import_module("repel.report.evaluate").finish,
        )
    config = import_module("repel.config")  # version 0.1
    return (
        import_module("repel.runs").read_config,
        config.saved,
        config.build_data,
        import_module("repel.evaluation.report").finish,
    )


def main() -> None:
    checkout, run = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    sys.path.insert(0, str(checkout / "src"))
    import lightning.pytorch  # noqa: F401 - which training has imported by then
    import torch.utils.tensorboard  # noqa: F401

    read, load, build, finish = edition()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / run.name
        shutil.copytree(run, folder)
        config = load(read(folder))
        data = build(config)
        data.setup()
        clocks = time.perf_counter, time.process_time
        started = [clock() for clock in clocks]
        with contextlib.redirect_stdout(io.StringIO()):
            finish(config, folder, data)
        seconds = [clock() - start for clock, start in zip(clocks, started, strict=True)]
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        records = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["records"]
    l2 = {one["metric"]: one["settings"]["l2"] for one in records if "l2" in one["settings"]}
    print(json.dumps({"wall": seconds[0], "CPU": seconds[1], "metrics": metrics, "l2": l2}))


if __name__ == "__main__":
    main()
