"""The sizes of the images that an encoder sees in a run, from its first batch to its report."""

from dataclasses import replace
from pathlib import Path

from conftest import TINY, config, options_of

from repel.engine import fit, runs
from repel.engine.configs import to_container
from repel.images import datasets, encoders, vit
from repel.images.shapes import Size, height_width
from repel.report import plots
from repel.report.evaluate import finish

QUICK = [*TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu",
         "logger.tensorboard=null", "callbacks.health=null", "data.val_fraction=0.1"]  # fmt: skip
OF_OPTION = {  # what an option needs besides, so that it trains in seconds, on the bundled images
    "encoder=timm": ["encoder.name=vit_tiny_patch16_224",
                     "+encoder.options={img_size:${data.image_size},patch_size:4,embed_dim:24,depth:1,num_heads:2}"],
    "encoder=resnet50": ["optimizer=sgd"],  # whose state is no second network on the disk
    "evaluators=fine_tune": ["evaluators.fine_tune.epochs=1", "evaluators.fine_tune.learning_rates=[0.1]"],
    "evaluators=sgd_probe": ["evaluators.sgd_probe.epochs=1"],
    "evaluators=few_label": ["evaluators.few_label.fractions=[0.5]"],
}  # fmt: skip
WITHOUT_WIDTH = ["encoder=resnet18", "encoder=resnet50", "encoder=timm"]


def cases() -> list[tuple[str, ...]]:
    """Overrides: every option of the groups that have to do with images, one at a time.

    But for presets, which test_methods.py trains.
    """
    groups = ("views", "encoder", "evaluators")
    return [(f"{group}={name}",) for group in groups for name in options_of(group, "images")]


def watch(monkeypatch, fewer: int = 1) -> dict[str, set]:
    """Fewer bundled images; gives height and width of what an encoder gets in training and in evaluation mode."""
    seen: dict[str, set] = {"train": set(), "eval": set()}
    bundled = datasets.fashion_mini(1)
    few = replace(bundled, train=bundled.train[:: 60 * fewer], test=bundled.test[:: 40 * fewer])
    monkeypatch.setattr(datasets, "fashion_mini", lambda channels: few)
    for kind in (encoders.SmallResNet, vit.SmallViT, encoders.TorchvisionResNet, encoders.TimmEncoder):

        def forward(self, images, usual=kind.forward):
            seen["train" if self.training else "eval"].add(tuple(images.shape[-2:]))
            return usual(self, images)

        monkeypatch.setattr(kind, "forward", forward)
    return seen


def sizes_of(views, size: Size) -> set:
    """Those that views have, small crops too."""
    return {height_width(size)} | {augmentation.size for augmentation in views.augmentations}


def sizes_seen(
    case: tuple[str, ...], size: Size, folder: Path, monkeypatch, fewer: int = 1
) -> tuple[dict[str, set], set]:
    """The sizes that the encoder got in a run and in its report, and those that views have."""
    seen = watch(monkeypatch, fewer)
    overrides = overrides_of(case, size)
    cfg = config(*overrides)
    runs.create(folder / "run", to_container(cfg), list(overrides))
    data = fit.fit(cfg, folder / "run", resume=False)
    monkeypatch.setattr(plots, "draw", lambda what, make: None)  # where it fails, a run goes on with a note
    finish(cfg, folder / "run", data)
    return seen, sizes_of(data.views, size)


def overrides_of(case: tuple[str, ...], size: Size) -> list[str]:
    group, name = case[0].split("=")
    chosen = [f"evaluators=[{name}]"] if group == "evaluators" else list(case)
    left_out = [f"{group}="] + (["encoder.width="] if case[0] in WITHOUT_WIDTH else [])
    quick = [option for option in QUICK if not option.startswith(tuple(left_out))]
    return [*quick, *chosen, *OF_OPTION.get(case[0], []), f"data.image_size={size}"]
