"""Python source that builds an encoder without this package."""

import ast
import inspect
import pkgutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from repel.images.encoders import TimmEncoder, TorchvisionResNet

__all__ = ["Recipe", "recipe"]


class Recipe(NamedTuple):
    """How to build an encoder's network elsewhere.

    library: the one to import besides torch, or None.
    architecture: its name in that library.
    network: what is built; its state dict is exported.
    source: Python with a function build() that returns the network.
    """

    library: str | None
    architecture: str
    network: nn.Module
    source: str


def recipe(encoder: nn.Module, config: dict[str, Any]) -> Recipe:
    """The recipe of an encoder.

    Args:
        encoder: built from the config.
        config: cfg.encoder as dicts and lists.

    Raises:
        ValueError: an encoder of your own that imports other parts of this package.
    """
    if type(encoder) is TorchvisionResNet:
        return Recipe("torchvision", config["name"], encoder.net, _torchvision_source(encoder.net, config["name"]))
    if type(encoder) is TimmEncoder:
        return Recipe("timm", config["name"], encoder.net, _timm_source(config))
    name = config["_target_"].rsplit(".", 1)[-1]
    return Recipe(None, name, encoder, _own_source(config))


def _torchvision_source(net: nn.Module, name: str) -> str:
    """Source of a torchvision model, with our changes to its first layers."""
    conv = net.conv1
    assert isinstance(conv, nn.Conv2d)
    lines = [f'net = get_model("{name}", weights=None)', "net.fc = nn.Identity()  # features, not classes"]
    if (conv.in_channels, conv.kernel_size) != (3, (7, 7)):
        lines.append(
            f"net.conv1 = nn.Conv2d({conv.in_channels}, {conv.out_channels}, {conv.kernel_size[0]}, {conv.stride[0]}, "
            f"padding={conv.padding[0]}, bias=False)"
        )
    if isinstance(net.maxpool, nn.Identity):
        lines.append("net.maxpool = nn.Identity()")
    return "from torch import nn\nfrom torchvision.models import get_model\n\n\n" + _function_source(
        [*lines, "return net"]
    )


def _timm_source(config: dict[str, Any]) -> str:
    options = {"pretrained": False, "num_classes": 0, "in_chans": config["channels"], **config["options"]}
    arguments = ", ".join([repr(config["name"]), *(f"{key}={value!r}" for key, value in options.items())])
    return "import timm\n\n\n" + _function_source([f"return timm.create_model({arguments})"])


def _own_source(config: dict[str, Any]) -> str:
    """Source of an encoder's class and of everything in its file that it uses."""
    target = pkgutil.resolve_name(config["_target_"])
    arguments = ", ".join(f"{key}={value!r}" for key, value in config.items() if key != "_target_")
    source = _definition_of(Path(inspect.getfile(target)).read_text(encoding="utf-8"), target.__name__)
    if "repel" in {name.split(".")[0] for name in _imported_modules(source)}:
        raise ValueError(
            f"{config['_target_']} imports other parts of repel, so its source does not run without "
            "repel; export it as 'format=[onnx]'"
        )
    return source + "\n\n\n" + _function_source([f"return {target.__name__}({arguments})"])


def _function_source(lines: list[str]) -> str:
    return "\n    ".join(["def build():", *lines])


def _imported_modules(source: str) -> list[str]:
    """Modules that a source imports, at any depth."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + ["repel" if node.level else str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]


def _definition_of(source: str, name: str) -> str:
    """The definition of a name in a file, after the definitions and imports there that it uses, in the file's order."""
    binding = {bound: node for node in ast.parse(source).body for bound in _names_defined_by(node)}
    found, open_names = set(), [name]
    while open_names:
        node = binding.get(open_names.pop())
        if node is not None and node not in found:
            found.add(node)
            open_names += [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    lines, nodes = source.splitlines(), sorted(found, key=lambda node: node.lineno)
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    rest = [node for node in nodes if node not in imports]

    def text(node: ast.stmt) -> str:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return "\n".join(lines[first - 1 : node.end_lineno])

    return "\n\n\n".join(["\n".join(map(text, imports)), *map(text, rest)])


def _names_defined_by(node: ast.stmt) -> list[str]:
    """The names that a statement at a file's top level defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
