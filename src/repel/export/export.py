"""export.py: the encoder in files that need nothing of this package, each compared with the original first."""

import json
import os
import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor, nn

from repel.base.installation import install_extra
from repel.engine.build import build_data
from repel.engine.configs import load_config
from repel.engine.data_identity import with_data
from repel.engine.modalities import modality_of
from repel.engine.pretrained import PretrainedEncoder, load_pretrained
from repel.evaluation.features import subset
from repel.export import templates
from repel.export.comparison import check_difference, describe_error
from repel.export.onnx_file import write_onnx
from repel.export.source import Recipe, recipe
from repel.images.shapes import height_width
from repel.images.views.normalize import to_float

__all__ = ["export"]

COMPARED = 32  # images on which files are compared with the original
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")

_Reopened = Callable[[Tensor], Tensor]  # a written file, read again: images (B, C, H, W) uint8 -> features (B, F)


def export(cfg: DictConfig, folder: Path) -> None:
    """Write encoder.safetensors with load_encoder.py, encoder.onnx, and README.md; of texts see text_export.py, of
    users and items pair_export.py.

    Raises:
        ValueError: the user's mistake.
        RuntimeError: a file gives other features than the original; then no file is written.
    """
    if missing := [name for name in ONNX_NEEDS if "onnx" in cfg.format and find_spec(name) is None]:
        raise ValueError(f"format=[onnx] needs {' '.join(missing)}: {install_extra('export')}")
    trained = load_pretrained(cfg.ckpt, cfg.checkpoint)
    if trained.learned:  # a tokenizer
        from repel.export.text_export import export_texts

        export_texts(cfg, folder, trained)
        return
    if _is_of_pairs(trained.config):
        from repel.export.pair_export import export_pairs

        export_pairs(cfg, folder, trained)
        return
    if cfg.top_k is not None:
        raise ValueError("top_k is for users and items, and the run learned images; leave it out")
    if "sentence_transformers" in cfg.format:
        raise ValueError("format=[sentence_transformers] is for texts, and the run learned images; leave it out")
    built = trained.config["encoder"]
    if "safetensors" in cfg.format:
        how = recipe(trained.encoder, built)
    else:  # an ONNX file needs no source
        how = Recipe(None, built.get("name", type(trained.encoder).__name__), trained.encoder, "")
    images = _comparison_images(cfg, trained)
    with torch.no_grad():
        expected = trained.encoder(trained.normalize(images))
    with TemporaryDirectory(prefix=".", dir=folder) as temporary:
        part, errors = Path(temporary), {}
        for name in dict.fromkeys(cfg.format):
            file = f"encoder.{name}"
            reopened = (
                _write_onnx(part / file, trained, cfg.normalize)
                if name == "onnx"
                else _write_safetensors(part, trained, how)
            )
            errors[file] = check_difference(file, reopened(images), expected)
            print(f"{file}: {describe_error(errors[file])}, on {len(images)} images")
        readme = _readme(cfg, trained, how, errors, len(images))
        (part / "README.md").write_text(readme, encoding="utf-8")
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)


def _is_of_pairs(config: dict[str, Any]) -> bool:
    """Whether a run learned from users and items, by its reader or, where that is one's own, by its encoder."""
    return "interactions" in (modality_of(config["data"]["datamodule"]["read"]), modality_of(config["encoder"]))


def _comparison_images(cfg: DictConfig, trained: PretrainedEncoder) -> Tensor:
    """(n, C, H, W) uint8: noise, or images of the run's validation split."""
    data = trained.config["data"]
    if cfg.compare_on == "random":
        shape = (COMPARED, data["channels"], *height_width(data["image_size"]))
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    module = build_data(load_config(with_data(cfg, trained.config)), trained.learned)
    module.setup()
    part = subset(module.splits.val, COMPARED)
    pixels, good = next(iter(part.plain([torch.arange(len(part))])))
    return pixels[good]


def _metadata(trained: PretrainedEncoder, how: Recipe) -> dict[str, str]:
    """The header of encoder.safetensors: strings only, numbers and lists as JSON."""
    data = trained.config["data"]
    facts = {"architecture": how.architecture, "library": how.library or "load_encoder.py"}
    facts |= {key: data[key] for key in ("channels", "image_size", "mean", "std")}
    facts |= {"features": trained.encoder.out_features, "encoder": trained.config["encoder"]} | trained.source
    return {"format": "pt"} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}


def _write_safetensors(folder: Path, trained: PretrainedEncoder, how: Recipe) -> _Reopened:
    """encoder.safetensors and load_encoder.py, which reads it again."""
    state = {name: tensor.contiguous() for name, tensor in how.network.state_dict().items()}
    # not save_file, whose file only its owner can read
    (folder / "encoder.safetensors").write_bytes(save(state, _metadata(trained, how)))
    (folder / "load_encoder.py").write_text(
        templates.LOADER.substitute(_template_values(trained, how)), encoding="utf-8"
    )
    module = runpy.run_path(str(folder / "load_encoder.py"))
    encoder = module["load_encoder"]()

    @torch.no_grad()
    def reopened(images: Tensor) -> Tensor:
        return encoder(module["normalize"](images))

    return reopened


class _NormalizedEncoder(nn.Module):
    """Images in [0, 1] -> features."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: PretrainedEncoder):
        super().__init__()
        self.encoder = trained.encoder
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(trained.normalize, name)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder((images - self.mean) / self.std)


def _write_onnx(path: Path, trained: PretrainedEncoder, normalize: bool) -> _Reopened:
    """An ONNX file for batches of any size, read again by onnxruntime."""
    network = _NormalizedEncoder(trained).eval() if normalize else trained.encoder
    data = trained.config["data"]
    example = torch.zeros(2, data["channels"], *height_width(data["image_size"]))
    shapes = ({0: torch.export.Dim("batch")},)
    session = write_onnx(path, network, (example,), ["images"], ["features"], shapes)

    def reopened(images: Tensor) -> Tensor:
        inputs = (to_float if normalize else trained.normalize)(images)
        batches = (inputs[:1], inputs[1:])  # of two sizes
        return torch.cat([torch.from_numpy(session.run(None, {"images": x.numpy()})[0]) for x in batches if len(x)])

    return reopened


def _template_values(trained: PretrainedEncoder, how: Recipe) -> dict[str, str]:
    """Values for the templates."""
    data = trained.config["data"]
    return {
        "architecture": how.architecture,
        "library": how.library or "",
        "needs": " ".join(["torch", "safetensors", *([how.library] if how.library else [])]),
        "source": how.source,
        "features": str(trained.encoder.out_features),
        "checkpoint": str(trained.path),
        "epoch": str(trained.epoch),
        **{key: str(data[key]) for key in ("channels", "mean", "std")},
        **{name: str(side) for name, side in zip(("height", "width"), height_width(data["image_size"]), strict=True)},
    }


def _readme(cfg: DictConfig, trained: PretrainedEncoder, how: Recipe, errors: dict[str, float], compared: int) -> str:
    known, uses = _template_values(trained, how), []
    if "encoder.safetensors" in errors:
        uses.append(templates.SAFETENSORS.substitute(known))
        uses += [templates.LIBRARY.substitute(known)] if how.library else []
    if "encoder.onnx" in errors:
        takes = "images in [0, 1]" if cfg.normalize else "normalized images"
        uses.append(templates.ONNX.substitute(takes=takes))
    images = f"{compared} images of " + ("noise" if cfg.compare_on == "random" else "the run's validation split")
    compared_files = "\n".join(f"- `{file}` {describe_error(error)}" for file, error in errors.items())
    return templates.README.substitute(
        known, uses="\n".join(uses), images=images, errors=compared_files, gray=", in gray" * (known["channels"] == "1")
    )
