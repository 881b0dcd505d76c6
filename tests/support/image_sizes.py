"""The sizes of the images that an encoder sees in a run, from its first batch to its report."""

from pathlib import Path

from conftest import TINY, config, options

from repel.engine import fit, runs
from repel.engine.configs import to_container
from repel.images import encoders
from repel.report.evaluate import finish

QUICK = [*TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu",
         "logger.tensorboard=null", "callbacks.health=null", "head.out_features=8"]  # fmt: skip
OF_OPTION = {  # what an option needs besides, so that it trains in seconds, on the bundled images
    "encoder=timm": ["encoder.name=vit_tiny_patch16_224",
                     "+encoder.options={img_size:${data.image_size},patch_size:4,embed_dim:24,depth:1,num_heads:2}"],
    "experiment=founding": ["encoder.weights=null"],
    "evaluators=fine_tune": ["evaluators.fine_tune.epochs=1", "evaluators.fine_tune.learning_rates=[0.1]"],
    "evaluators=sgd_probe": ["evaluators.sgd_probe.epochs=1"],
    "evaluators=few_label": ["evaluators.few_label.fractions=[0.5]"],
}  # fmt: skip
ON_BUNDLED = ["data=fashion_mini", "encoder=small"]  # of experiments, which choose larger ones


def cases() -> list[tuple[str, ...]]:
    """Overrides: every option of the groups that have to do with images, one at a time."""
    found = []
    for group in ("views", "encoder", "evaluators", "experiment"):
        found += [(f"{group}={name}",) for name in options(group)]
    return found


def sizes_seen(case: tuple[str, ...], size: int, folder: Path, monkeypatch) -> tuple[dict[str, set], set]:
    """Height and width of what the encoder got, in training mode and in evaluation mode; and those that views have."""
    seen: dict[str, set] = {"train": set(), "eval": set()}
    for kind in (encoders.SmallResNet, encoders.TorchvisionResNet, encoders.TimmEncoder):

        def forward(self, images, usual=kind.forward):
            seen["train" if self.training else "eval"].add(tuple(images.shape[-2:]))
            return usual(self, images)

        monkeypatch.setattr(kind, "forward", forward)
    overrides = overrides_of(case, size)
    cfg = config(*overrides)
    runs.create(folder / "run", to_container(cfg), list(overrides))
    data = fit.fit(cfg, folder / "run", resume=False)
    seen_before_report = {mode: set(sizes) for mode, sizes in seen.items()}
    finish(cfg, folder / "run", data)
    assert seen["train"] - seen_before_report["train"] <= {(size, size)}  # fine_tune trains the encoder
    return seen, {(size, size)} | {(a.size, a.size) for a in data.views.augmentations}


def overrides_of(case: tuple[str, ...], size: int) -> list[str]:
    group, name = case[0].split("=")
    chosen = [f"evaluators=[{name}]"] if group == "evaluators" else list(case)
    data = ON_BUNDLED if group == "experiment" else []
    return [*(o for o in QUICK if not (group == "experiment" and o.startswith("experiment="))), *data, *chosen,
            *OF_OPTION.get(case[0], []), f"data.image_size={size}"]  # fmt: skip
