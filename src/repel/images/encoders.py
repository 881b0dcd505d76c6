"""Encoders: images (B, C, H, W) -> features h (B, F). Each has `out_features`, F."""

import difflib
import re
from typing import Any

import torch
from torch import Tensor, nn

from repel.base.installation import install_extra
from repel.images.shapes import Size, height_width, size_in_words

__all__ = ["SmallResNet", "TimmEncoder", "TorchvisionResNet"]


class SmallResNet(nn.Module):
    """A residual network for small images that trains in minutes on two CPU cores.

    A 3x3 stem of width w, then three basic blocks (He et al. 2016, arXiv:1512.03385) of widths 2w, 4w and 8w, each of
    which halves the resolution; global average pooling. F = 8w.

    Args:
        channels: channels of the images.
        width: w.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        if width < 1:
            raise ValueError(f"encoder.width must be at least 1, got {width}")
        self.out_features = 8 * width
        self.stem = nn.Sequential(conv3x3(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(BasicBlock(width * n, width * 2 * n, 2) for n in (1, 2, 4)))
        if width >= 8:  # below, oneDNN (of torch 2.15, AVX2) writes outside its memory in the backward pass
            self.to(memory_format=torch.channels_last)  # up to twice as fast, on CPUs too

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images)).mean((2, 3))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(),
            conv3x3(outputs, outputs, 1), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shortcut(x) + self.residual(x))


def conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class TorchvisionResNet(nn.Module):
    """A torchvision ResNet without its classifier.

    Args:
        name: resnet18, resnet50, ...
        channels: channels of the images.
        stem: `small` replaces the 7x7 stride-2 convolution by a 3x3 one and drops the max-pooling (Chen et al. 2020,
            arXiv:2002.05709, appendix B.9); `imagenet` leaves both.
        weights: a name of torchvision's weights such as DEFAULT, downloaded on first use, or None.
    """

    net: Any  # a torchvision ResNet, whose layers are replaced

    def __init__(self, name: str, channels: int, stem: str, weights: str | None):
        super().__init__()
        if stem not in ("small", "imagenet"):
            raise ValueError(f"encoder.stem must be small or imagenet, got {stem!r}")
        if weights and (stem != "imagenet" or channels != 3):
            raise ValueError(
                f"encoder.weights={weights} needs encoder.stem=imagenet and data.channels=3: "
                f"the weights of another first layer do not exist (got stem={stem}, channels={channels})"
            )
        self.net = pretrained(name, weights)
        self.out_features = self.net.fc.in_features
        self.net.fc = nn.Identity()
        width = self.net.conv1.out_channels
        if stem == "small":
            self.net.conv1 = conv3x3(channels, width, 1)
            self.net.maxpool = nn.Identity()
        elif channels != 3:
            self.net.conv1 = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def pretrained(name: str, weights: str | None) -> nn.Module:
    """A torchvision model; a failed download says what to do."""
    from torchvision.models import get_model, get_model_weights

    if weights and weights not in (known := [*get_model_weights(name).__members__, "DEFAULT"]):
        raise ValueError(f"encoder.weights={weights}: {name} has no such weights; choose from {', '.join(known)}")
    try:
        return get_model(name, weights=weights)
    except OSError as error:  # URLError is one
        raise ValueError(
            f"cannot download the weights of {name} ({error}); put the file into $TORCH_HOME/hub/checkpoints by hand, "
            "or train from scratch with encoder.weights=null"
        ) from error


class TimmEncoder(nn.Module):
    """A timm model without its classifier.

    Args:
        name: of the model, as in timm.list_models(), or as timm's page on the hub has it: timm/NAME, hf-hub:timm/NAME,
            or its address.
        channels, image_size: of the images.
        pretrained: load timm's weights, downloaded on first use.
        options: further arguments of timm.create_model.
    """

    def __init__(self, name: str, channels: int, image_size: Size, pretrained: bool, options: dict):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"encoder=timm needs timm: {install_extra('timm')}") from error
        typed, name = name, re.sub(r"^((https://huggingface\.co/|hf[-_]hub:)?timm/|timm:)", "", name)
        if not timm.is_model(name):
            stem = name.partition(".")[0]  # without the tag of its weights
            close = timm.list_models(f"*{stem}*")[:3] or difflib.get_close_matches(stem, timm.list_models(), 3)
            instead = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
            raise ValueError(f"encoder.name={typed}: timm has no such model; {instead}")
        try:
            self.net = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **options)
        except (OSError, RuntimeError) as error:
            if "Invalid pretrained tag" in str(error):
                tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
                raise ValueError(f"encoder.name={typed}: timm has no such weights; there are: {tags}") from error
            if not pretrained:
                raise
            raise ValueError(f"cannot load timm's weights of {name} ({error}); use encoder.pretrained=false") from error
        with torch.no_grad():  # what comes out, for any architecture, is known by trying
            self.net.eval()
            try:
                self.out_features = self.net(torch.zeros(1, channels, *height_width(image_size))).shape[1]
            except (AssertionError, RuntimeError) as error:
                raise ValueError(
                    f"{name} cannot take {size_in_words(image_size)} images ({error}); set data.image_size to its "
                    "size, or, where the model has the argument, +encoder.options.img_size"
                ) from error
            self.net.train()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)
