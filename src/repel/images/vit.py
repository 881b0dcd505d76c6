"""A vision transformer for small images: images (B, C, H, W) -> features h (B, F)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SmallViT"]


class SmallViT(nn.Module):
    """torchvision's vision transformer with small patches, without its classifier; h is the class token.

    Dosovitskiy et al. 2021, arXiv:2010.11929, in the size of ViT-Lite (Hassani et al. 2021, arXiv:2104.05704), for
    images that are too small for patches of 16 pixels. Position embeddings are learned for `image_size`; images of
    another size, as the crops of views=multi_crop, get them interpolated (Caron et al. 2021, arXiv:2104.14294). They
    and the class token do not decay.

    Args:
        channels: channels of the images.
        image_size: side of the images, or height and width, in pixels; a multiple of patch_size.
        patch_size: side of a patch, in pixels.
        width: F, the dimensions of a token; a multiple of heads.
        depth: number of layers.
        heads: number of attention heads.
        mlp_ratio: dimensions between the two layers of an MLP, as a multiple of width.

    Raises:
        ValueError: sizes that do not fit one another.

    Examples:
        >>> encoder = SmallViT(channels=1, image_size=28)
        >>> encoder(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 128])
    """

    net: Any  # a torchvision VisionTransformer, whose layers are replaced

    def __init__(
        self,
        channels: int,
        image_size: int | tuple[int, int],
        patch_size: int = 4,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 2.0,
    ):
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if patch_size < 1 or any(side % patch_size or not side for side in sides):
            raise ValueError(f"encoder.patch_size={patch_size} must divide data.image_size={image_size}")
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"encoder.width={width} must be a multiple of encoder.heads={heads}")
        if depth < 1:
            raise ValueError(f"encoder.depth must be at least 1, got {depth}")
        from torchvision.models import VisionTransformer

        self.out_features, self.patch_size = width, patch_size
        self.grid = sides[0] // patch_size, sides[1] // patch_size
        self.net = VisionTransformer(patch_size, patch_size, depth, heads, width, int(mlp_ratio * width))
        self.net.heads = nn.Identity()
        self.net.conv_proj = nn.Conv2d(channels, width, patch_size, patch_size)
        nn.init.trunc_normal_(self.net.conv_proj.weight, std=(channels * patch_size**2) ** -0.5)
        nn.init.zeros_(self.net.conv_proj.bias)
        positions = torch.empty(1, 1 + self.grid[0] * self.grid[1], width)
        self.net.encoder.pos_embedding = nn.Parameter(positions.normal_(std=0.02))

    def no_weight_decay(self) -> set[str]:
        return {"net.class_token", "net.encoder.pos_embedding"}

    def forward(self, images: Tensor) -> Tensor:
        patches = self.net.conv_proj(images)  # (B, F, H / patch, W / patch)
        # not len(images), which an exported network would take for a constant
        first = self.net.class_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, patches.flatten(2).mT], dim=1)
        encoder = self.net.encoder
        tokens = encoder.layers(encoder.dropout(tokens + self.positions(patches.shape[2], patches.shape[3])))
        return encoder.ln(tokens)[:, 0]

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, 1 + height * width, F) for so many patches."""
        positions = self.net.encoder.pos_embedding
        if (height, width) == self.grid:
            return positions
        grid = positions[:, 1:].mT.unflatten(2, self.grid)
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)
