"""Whether two checkouts compute the same, bit for bit: a refactor must not change a run.

    python tests/support/same_curves.py record CHECKOUT OUT [--quick] [NAME ...]    runs of CHECKOUT, kept in OUT
    python tests/support/same_curves.py compare OUT OUT                             metrics and weights, bit for bit

Record both checkouts on one machine. Runs use one thread, two at a time.
"""

import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EPOCHS = ["trainer.max_epochs=3", "evaluators=[knn]"]
QUICK = ["experiment=debug", "trainer.max_epochs=3", "encoder.width=4", "head.out_features=8", "data.batch_size=16",
         "evaluators=[knn]", "evaluation.bank=64", "data.val_fraction=0.02"]  # fmt: skip
RUNS = {
    "default": [],
    "moco": ["experiment=moco"],
    "hcl": ["experiment=hcl"],
    "swav": ["experiment=swav"],
    "byol": ["experiment=byol", "anneal.values=null"],  # whose momentum was constant in the first edition
    "multi_crop": ["views=multi_crop"],
    "mixed": ["negatives=mixed"],
    "folder": ["data=image_folder", "data.in_memory=false", "data.workers=2"],
    "two_ranks": ["trainer.devices=2", "trainer.accelerator=cpu"],
}


def make_folder(root: Path) -> Path:
    """600 small photographs of noise in three classes; square, as the first edition made all."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for number, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(200):
            pixels = draws.integers(0, 128, (40, 40, 3), dtype=np.uint8)
            pixels[..., number] += 100
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def record(checkout: Path, out: Path, name: str, quick: bool) -> str:
    """Train one of RUNS in OUT/name; returns a line about it."""
    out.mkdir(parents=True, exist_ok=True)
    options = list(RUNS[name])
    if quick:  # the experiments are chosen first, so that QUICK changes them
        experiments = [o for o in options if o.startswith("experiment=")]
        options = [*(QUICK if not experiments else [*QUICK[1:], "trainer.limit_train_batches=4"]), *options]
    else:
        options += EPOCHS
    if name == "folder":
        options += [f"data.root={make_folder(out / 'images')}"]
    command = [sys.executable, str(checkout / "train.py"), *options, f"name={name}"]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out, env=environment, text=True, capture_output=True)
    (out / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        return f"{name}: exit status {done.returncode}, see {out / name}.log"
    folder = out / done.stdout.strip().splitlines()[-1].removeprefix("run: ")
    link = out / name
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve())
    return f"{name}: done"


def curves(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what a clock measured."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in csv.DictReader(file)]


def difference(a: Path, b: Path) -> str | None:
    """The first difference between two run folders, in words, or None."""
    import torch

    first, second = curves(a), curves(b)
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} rows of metrics.csv"
    for number, (x, y) in enumerate(zip(first, second, strict=True)):
        for key in x.keys() | y.keys():
            if x.get(key) != y.get(key):
                return f"metrics.csv row {number}: {key} is {x.get(key)} and {y.get(key)}"
    states = [torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (a, b)]
    if states[0].keys() != states[1].keys():
        return f"weights: {sorted(states[0].keys() ^ states[1].keys())} are in one alone"
    for key, value in states[0].items():
        if not torch.equal(value, states[1][key]):
            return f"weights: {key} differs"
    return None


def main() -> None:
    task, *rest = sys.argv[1:]
    quick, rest = "--quick" in rest, [r for r in rest if r != "--quick"]
    first, second, names = Path(rest[0]).resolve(), Path(rest[1]).resolve(), rest[2:] or list(RUNS)
    if task == "record":
        with ThreadPoolExecutor(2) as pool:
            for line in pool.map(lambda name: record(first, second, name, quick), names):
                print(line, flush=True)
        return
    different = False
    for name in names:
        if not ((first / name).exists() and (second / name).exists()):
            print(f"{name}: not recorded")
            different = True
            continue
        found = difference(first / name, second / name)
        different |= found is not None
        print(f"{name}: {found or 'equal to the bit'}", flush=True)
    sys.exit(int(different))


if __name__ == "__main__":
    main()
