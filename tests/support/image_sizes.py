"""The sizes of the images that an encoder sees in a run, from its first batch to its report."""

from dataclasses import replace
from pathlib import Path

from conftest import TINY, config, options_of

from repel.engine import fit, runs
from repel.engine.configs import to_container
from repel.images import datasets, encoders, vit
from repel.images.shapes import Size, height_width
from repel.report.evaluate import finish

QUICK = [*TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu",
         "logger.tensorboard=null", "callbacks.health=null", "data.val_fraction=0.1"]  # fmt: skip
OF_OPTION = {  # what an option needs besides, so that it trains in seconds, on the bundled images
    "encoder=timm": ["encoder.name=vit_tiny_patch16_224",
                     "+encoder.options={img_size:${data.image_size},patch_size:4,embed_dim:24,depth:1,num_heads:2}"],
    "experiment=founding": ["encoder.weights=null", "data.mean=[0.5]", "data.std=[0.5]"],
    "experiment=cifar10_simclr": ["trainer.precision=32-true", "head.hidden=16"],
    "evaluators=fine_tune": ["evaluators.fine_tune.epochs=1", "evaluators.fine_tune.learning_rates=[0.1]"],
    "evaluators=sgd_probe": ["evaluators.sgd_probe.epochs=1"],
    "evaluators=few_label": ["evaluators.few_label.fractions=[0.5]"],
}  # fmt: skip
WITHOUT_WIDTH = ["encoder=resnet18", "encoder=resnet50", "encoder=timm", "experiment=founding",
                 "experiment=cifar10_simclr"]  # fmt: skip


def cases() -> list[tuple[str, ...]]:
    """Overrides: every option of the groups that have to do with images, one at a time."""
    found = []
    for group in ("views", "encoder", "evaluators", "experiment"):
        found += [(f"{group}={name}",) for name in options_of(group, "images")]
    return found


def sizes_seen(case: tuple[str, ...], size: Size, folder: Path, monkeypatch) -> tuple[dict[str, set], set]:
    """Height and width of what the encoder got, in training mode and in evaluation mode; and those that views have."""
    seen: dict[str, set] = {"train": set(), "eval": set()}
    bundled = datasets.fashion_mini(1)
    few = replace(bundled, train=bundled.train[::40], test=bundled.test[::40])
    monkeypatch.setattr(datasets, "fashion_mini", lambda channels: few)
    for kind in (encoders.SmallResNet, vit.SmallViT, encoders.TorchvisionResNet, encoders.TimmEncoder):

        def forward(self, images, usual=kind.forward):
            seen["train" if self.training else "eval"].add(tuple(images.shape[-2:]))
            return usual(self, images)

        monkeypatch.setattr(kind, "forward", forward)
    overrides = overrides_of(case, size)
    cfg = config(*overrides)
    runs.create(folder / "run", to_container(cfg), list(overrides))
    data = fit.fit(cfg, folder / "run", resume=False)
    finish(cfg, folder / "run", data)
    return seen, {height_width(size)} | {a.size for a in data.views.augmentations}


def overrides_of(case: tuple[str, ...], size: Size) -> list[str]:
    group, name = case[0].split("=")
    chosen = [f"evaluators=[{name}]"] if group == "evaluators" else list(case)
    bundled = ["data=fashion_mini"] if group == "experiment" else []
    left_out = [f"{group}="] + (["encoder.width="] if case[0] in WITHOUT_WIDTH else [])
    quick = [option for option in QUICK if not option.startswith(tuple(left_out))]
    return [*quick, *bundled, *chosen, *OF_OPTION.get(case[0], []), f"data.image_size={size}"]
