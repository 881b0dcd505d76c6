"""The encoder as files that need nothing of this package, each compared with the original before it is left."""

import json
import logging
import os
import runpy
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor, nn

from repel.base.installation import install_extra
from repel.engine.build import build_data, with_data
from repel.engine.configs import load_config
from repel.evaluation.features import subset
from repel.export import templates
from repel.export.pretrained import Trained, load
from repel.export.source import Recipe, recipe
from repel.images.views.normalize import to_float

TOLERANCE = 1e-5  # of the largest feature
COMPARED = 32  # images
PROTOBUF_LIMIT = 2**31  # bytes, above which an ONNX file keeps its weights in a second one
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")

Reopened = Callable[[Tensor], Tensor]  # images (B, C, H, W) uint8 -> features (B, F), by a file that was written


def export(cfg: DictConfig, folder: Path) -> None:
    """export.py: encoder.safetensors with load_encoder.py, encoder.onnx, README.md.

    Raises:
        ValueError: the user's mistake.
        RuntimeError: a file gives other features than the original. No file is left.
    """
    if missing := [name for name in ONNX_NEEDS if "onnx" in cfg.format and find_spec(name) is None]:
        raise ValueError(f"format=[onnx] needs {' '.join(missing)}: {install_extra('export')}")
    trained = load(cfg.ckpt, cfg.checkpoint)
    built = trained.config["encoder"]
    if "safetensors" in cfg.format:
        how = recipe(trained.encoder, built)
    else:  # an ONNX file needs no source
        how = Recipe(None, built.get("name", type(trained.encoder).__name__), trained.encoder, "")
    images = compared_on(cfg, trained)
    with torch.no_grad():
        expected = trained.encoder(trained.normalize(images))
    with TemporaryDirectory(prefix=".", dir=folder) as temporary:
        part, errors = Path(temporary), {}
        for name in dict.fromkeys(cfg.format):
            file = f"encoder.{name}"
            reopened = write_onnx(part / file, trained, cfg.normalize) if name == "onnx" else write(part, trained, how)
            errors[file] = difference(file, reopened(images), expected)
            print(f"{file}: {words(errors[file])}, on {len(images)} images")
        (part / "README.md").write_text(readme(cfg, trained, how, errors, len(images)))
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)


def words(error: float) -> str:
    return f"differs from the original by at most {error:.1e} of the largest feature"


def compared_on(cfg: DictConfig, trained: Trained) -> Tensor:
    """(n, C, S, S) uint8: noise, or images of the run's validation split."""
    data = trained.config["data"]
    if cfg.compare_on == "random":
        shape = (COMPARED, data["channels"], data["image_size"], data["image_size"])
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    module = build_data(load_config(with_data(cfg, trained.config)))
    module.setup()
    part = subset(module.splits.val, COMPARED)
    pixels, good = next(iter(part.plain([torch.arange(len(part))])))
    return pixels[good]


def difference(file: str, made: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest feature.

    Raises:
        RuntimeError: it is above TOLERANCE, or no number.
    """
    error = float((made - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    if not error <= TOLERANCE:
        raise RuntimeError(f"{file} {words(error)}, more than {TOLERANCE}; no file is left")
    return error


def metadata(trained: Trained, how: Recipe) -> dict[str, str]:
    """What goes into the file's header: texts only, numbers and lists as JSON."""
    data = trained.config["data"]
    facts = {"architecture": how.architecture, "library": how.library or "load_encoder.py"}
    facts |= {key: data[key] for key in ("channels", "image_size", "mean", "std")}
    facts |= {"features": trained.encoder.out_features, "encoder": trained.config["encoder"]} | trained.source
    return {"format": "pt"} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}


def write(folder: Path, trained: Trained, how: Recipe) -> Reopened:
    """encoder.safetensors and load_encoder.py, read back by the latter."""
    state = {name: tensor.contiguous() for name, tensor in how.network.state_dict().items()}
    # not save_file, which lets nobody else read it
    (folder / "encoder.safetensors").write_bytes(save(state, metadata(trained, how)))
    (folder / "load_encoder.py").write_text(templates.LOADER.substitute(facts(trained, how)))
    module = runpy.run_path(str(folder / "load_encoder.py"))
    encoder = module["load_encoder"]()

    @torch.no_grad()
    def reopened(images: Tensor) -> Tensor:
        return encoder(module["normalize"](images))

    return reopened


class Normalized(nn.Module):
    """Images in [0, 1] -> features."""

    def __init__(self, trained: Trained):
        super().__init__()
        self.encoder = trained.encoder
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(trained.normalize, name)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder((images - self.mean) / self.std)


def write_onnx(path: Path, trained: Trained, normalize: bool) -> Reopened:
    """An ONNX file for batches of any size, read back by onnxruntime."""
    import onnxruntime

    network = Normalized(trained).eval() if normalize else trained.encoder
    data = trained.config["data"]
    example = torch.zeros(2, data["channels"], data["image_size"], data["image_size"])
    large = sum(tensor.nbytes for tensor in network.state_dict().values()) >= PROTOBUF_LIMIT
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        torch.onnx.export(
            network, (example,), path, dynamo=True, verbose=False, external_data=large,
            input_names=["images"], output_names=["features"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def reopened(images: Tensor) -> Tensor:
        inputs = (to_float if normalize else trained.normalize)(images)
        batches = (inputs[:1], inputs[1:])  # of two sizes
        return torch.cat([torch.from_numpy(session.run(None, {"images": x.numpy()})[0]) for x in batches if len(x)])

    return reopened


def facts(trained: Trained, how: Recipe) -> dict[str, str]:
    """What the templates name."""
    data = trained.config["data"]
    return {
        "architecture": how.architecture,
        "library": how.library or "",
        "needs": " ".join(["torch", "safetensors", *([how.library] if how.library else [])]),
        "source": how.source,
        "features": str(trained.encoder.out_features),
        "checkpoint": str(trained.path),
        "epoch": str(trained.epoch),
        **{key: str(data[key]) for key in ("channels", "image_size", "mean", "std")},
    }


def readme(cfg: DictConfig, trained: Trained, how: Recipe, errors: dict[str, float], compared: int) -> str:
    known, uses = facts(trained, how), []
    if "encoder.safetensors" in errors:
        uses.append(templates.SAFETENSORS.substitute(known))
        uses += [templates.LIBRARY.substitute(known)] if how.library else []
    if "encoder.onnx" in errors:
        takes = "images in [0, 1]" if cfg.normalize else "normalised images"
        uses.append(templates.ONNX.substitute(takes=takes))
    images = f"{compared} images of " + ("noise" if cfg.compare_on == "random" else "the run's validation split")
    compared_files = "\n".join(f"- `{file}` {words(error)}" for file, error in errors.items())
    return templates.README.substitute(
        known, uses="\n".join(uses), images=images, errors=compared_files, gray=", in gray" * (known["channels"] == "1")
    )
