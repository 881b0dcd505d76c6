"""Mean and standard deviation of the final metrics over a sweep's runs: python scripts/summarize.py SWEEP [METRIC ...]

Runs whose overrides differ in nothing but `seed` make one group; each group gets one Markdown row.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

METRICS = ["baseline/raw_knn_top1", "baseline/untrained_knn_top1", "test/last_knn_top1", "test/knn_top1"]


def groups(sweep: Path) -> dict[str, list[dict[str, float]]]:
    """What was overridden besides the seed -> the metrics of its finished runs."""
    found = defaultdict(list)
    for path in sorted(sweep.rglob("metrics.json")):
        overrides = json.loads((path.parent / "environment.json").read_text())["overrides"]
        name = " ".join(o for o in overrides if not o.startswith(("seed=", "name="))) or "(default)"
        metrics = json.loads(path.read_text())
        if "test/knn_top1" in metrics:
            found[name].append(metrics)
    return found


def cell(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "-"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def main() -> int:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        print("error: name a sweep's folder: python scripts/summarize.py sweeps/train/DATE", file=sys.stderr)
        return 2
    metrics = sys.argv[2:] or METRICS
    print("| run | seeds |", " | ".join(metrics), "|")
    print("|---|---|" + "---|" * len(metrics))
    for name, runs in groups(Path(sys.argv[1])).items():
        print(f"| {name} | {len(runs)} |", " | ".join(cell([r[m] for r in runs if m in r]) for m in metrics), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
