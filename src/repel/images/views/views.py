"""The views of a batch of images: parameters drawn first, one row per image, then applied on the device."""

import copy
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from repel.data.views import Params, Viewed
from repel.images.views import crop
from repel.images.views.augment import Augment

__all__ = ["Views", "apply"]

BLOCK = 64  # images handled at a time on a CPU, so that what is in between stays in its cache
SINGLE = 96  # shorter side, in pixels, from which a view fills that cache alone: then one is made at a time


class Views:
    """V views of every image, (B, C, H, W) -> (V, B, C, *size); further small crops if asked for.

    Several views an image: Chen et al. 2020 (SimCLR), arXiv:2002.05709, sec. 2.1, with V = 2.

    Args:
        n: how many views V, at least 2, each a positive of the others.
        augmentation: makes an Augment, from what differs between views.
        color, order: of all views, see Augment.
        per_view: what each view changes of the augmentation, n entries, or None where all are alike.
        local: further crops that are anchors only (Caron et al. 2020, arXiv:2006.09882, sec. 3.2): their number `n`,
            their `size` as a fraction of the views', in (0, 1], and what else they change; or None.
        progressive: smaller views first, for less time: `until` which share of training, in (0, 1), and their `size`
            as a fraction of the full one, in (0, 1); or None. Networks that average over places take both sizes
            (Touvron et al. 2019, arXiv:1906.06423; Tan, Le 2021, arXiv:2104.00298, sec. 4).

    Raises:
        ValueError: n below 2; per_view without one entry a view, or with views of several sizes; local or progressive
            out of range.

    >>> from functools import partial
    >>> augmentation = partial(Augment, 8, mean=[0.5], std=[0.25], scale=[0.2, 1.0], flip=0.5)
    >>> images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    >>> Views(2, augmentation)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 4, 1, 8, 8])
    """

    def __init__(
        self,
        n: int,
        augmentation: Callable[..., Augment],
        color: str = "exact",
        order: str = "batch",
        per_view: Sequence[dict[str, Any]] | None = None,
        local: dict[str, Any] | None = None,
        progressive: dict[str, float] | None = None,
    ):
        if n < 2:
            raise ValueError(f"a positive pair needs at least views.n=2, got {n}")
        if per_view is not None and len(per_view) != n:
            raise ValueError(f"views.per_view has {len(per_view)} entries for views.n={n}; it needs one for each view")
        changes = per_view or [{}] * n
        self.augmentations = [augmentation(color=color, order=order, **change) for change in changes]
        size = self.augmentations[0].size
        if any(a.size != size for a in self.augmentations):
            raise ValueError("views.per_view: views must have one size; smaller crops go to views.local")
        self.n, self.locals, self.compiled = n, 0, False
        if local is not None and local["n"]:
            other = {k: v for k, v in local.items() if k not in ("n", "size")}
            if local["n"] < 1 or not 0 < local["size"] <= 1:
                raise ValueError(f"views.local needs n >= 0 and 0 < size <= 1, got n={local['n']} size={local['size']}")
            smaller = [max(1, round(side * local["size"])) for side in size]
            small = augmentation(color=color, order=order, size=smaller, **other)
            self.locals = local["n"]
            self.augmentations += [small] * self.locals
        self.progressive = None if progressive is None else dict(progressive)
        if self.progressive is not None:
            if set(self.progressive) != {"until", "size"} or not all(0 < x < 1 for x in self.progressive.values()):
                raise ValueError(
                    "views.progressive needs until and size, each above 0 and below 1, such as "
                    f"'views.progressive={{until:0.8,size:0.64}}', got {progressive}"
                )
            self.first = copy.copy(self)
            self.first.augmentations = [a.scaled(self.progressive["size"]) for a in self.augmentations]

    def at(self, done: float) -> "Views":
        """The views when this share of training is done, in [0, 1]: smaller at first, where `progressive` says so.

        >>> from functools import partial
        >>> views = Views(2, partial(Augment, 8, mean=[0.5], std=[0.25]), progressive={"until": 0.8, "size": 0.5})
        >>> [views.at(done).augmentations[0].size for done in (0.0, 0.79, 0.8)]
        [(4, 4), (4, 4), (8, 8)]
        """
        return self.first if self.progressive is not None and done < self.progressive["until"] else self

    def compile_views(self) -> str:
        """From now on torch.compile makes the views, with the same values within rounding.

        Returns:
            Why not, in words, where it cannot; else nothing.
        """
        if any(augmentation.color == "exact" for augmentation in self.augmentations):
            return "views.color=exact decides on the host what each batch needs; views.color=fused is compiled"
        self.compiled = True
        if self.progressive is not None:
            self.first.compiled = True
        return ""

    def check_encoder(self, encoder: torch.nn.Module) -> None:
        """Raises ValueError where views are smaller at first, and an encoder does not take them."""
        if self.progressive is None:
            return
        channels, training = len(self.augmentations[0].normalize.mean), encoder.training
        encoder.eval()
        for height, width in dict.fromkeys(augmentation.size for augmentation in self.first.augmentations):
            try:
                with torch.no_grad():
                    encoder(torch.zeros(1, channels, height, width))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"views.progressive: this encoder takes no images of {height}x{width} "
                    f"({str(error).partition(chr(10))[0]}); leave it out, or choose another encoder"
                ) from error
        encoder.train(training)

    def __len__(self) -> int:
        return self.n

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """Parameters for n images: a list with an entry per view, each a dict of tensors of first dimension n."""
        return [augmentation.draw(n, generator) for augmentation in self.augmentations]

    def apply(self, images: Tensor | list[Tensor], params: Params) -> Tensor | Viewed:
        """images (B, C, H, W), uint8 or float in [0, 1] -> (V, B, C, H', W') float, normalized, on the same device.

        Args:
            images: whole images; or a list with every view's crops, as a reader of large files makes them.

        Returns:
            The views; with local crops also these, (L, B, C, h, w).
        """
        made = []
        for part in (slice(self.n), slice(self.n, None)) if self.locals else (slice(self.n),):
            cropped = isinstance(images, list)
            source = torch.stack(images[part]) if isinstance(images, list) else images
            made.append(apply(self.augmentations[part], source, params[part], cropped, self.compiled))
        return Viewed(*made) if self.locals else made[0]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor | Viewed:
        """Draw and apply: images (B, C, H, W) -> the views (V, B, C, H', W'), with local crops also (L, B, C, h, w).

        Args:
            images: uint8 in [0, 255] or float in [0, 1], on the device where the views are wanted.
            generator: of the CPU; equal states give equal views on any device, up to rounding.
        """
        return self.apply(images, self.draw(len(images), generator))


@functools.cache
def _compiled_make(kind: type[Augment]) -> Callable[..., None]:
    """A class's `make` by torch.compile; not held by the views, which data workers are sent."""
    return torch.compile(kind.make, dynamic=False)


@torch.no_grad()
def apply(
    augmentations: Sequence[Augment], images: Tensor, params: Params, cropped: bool = False, compiled: bool = False
) -> Tensor:
    """Views of one size, (V, B, C, *size), of images (B, C, H, W); or, cropped, of their crops, (V, B, C, *size)."""
    (*_, n, channels, height, width), device = images.shape, images.device
    size = augmentations[0].size
    single = device.type == "cpu" and min(size) >= SINGLE and not compiled  # what is compiled is the same for all
    block = 1 if single else BLOCK if device.type == "cpu" else n
    made = torch.empty(len(augmentations), n, channels, *size, device=device)
    with torch.autocast(device.type, enabled=False):
        p = [a.prepared(q, channels, height, width, device) for a, q in zip(augmentations, params, strict=True)]

    def make(part: slice) -> None:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):  # each thread has its own settings
            shared = [] if cropped else [crop.by_lines(images[part])]
            for view, augmentation in enumerate(augmentations):
                own = crop.by_lines(images[view, part]) if cropped else shared[0]
                params_of_part = {name: value[part] for name, value in p[view].items()}
                one = _of_one(augmentation, params_of_part) if single else augmentation
                make_view = _compiled_make(type(one)) if compiled else type(one).make  # type: ignore[arg-type]
                make_view(one, own, params_of_part, cropped, made[view, part])

    parts = [slice(start, start + block) for start in range(0, n, block)]
    _in_threads(make, parts, torch.get_num_threads() if single else 1)
    return made


def _in_threads(work: Callable[[slice], None], parts: Sequence[slice], threads: int) -> None:
    """Each part by one of so many threads: its operations are too short for several to share each of them."""
    if threads == 1:
        for part in parts:
            work(part)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # the pool's threads changed what later threads begin with


def _of_one(augmentation: Augment, p: dict[str, Tensor]) -> Augment:
    """Makes one image's view on a CPU, without the operations that it did not draw.

    Not for other devices: to read what was drawn, p (1, ...) as prepared, the host would wait for them.
    """
    one = copy.copy(augmentation)
    one.single = True
    one.gamma = augmentation.gamma if bool(p["gamma"] != 1) else 0.0
    one.grayscale, one.blur = float(p["grayscale"]), float(p["sigma"] > 0)
    one.solarize, one.cutout = float(p["threshold"] <= 1), float(p["hole"] > 0)
    return one
