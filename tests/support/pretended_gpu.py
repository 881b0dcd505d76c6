"""A GPU that is not there: its tensors have shapes and types, and no values, so that whoever asks for one fails.

As on a GPU, tensors on the CPU have values, and a copy between the two waits unless it is asked not to (non_blocking).
Its device is called lazy: of a `cuda` device that is not there torch's autograd makes no backward pass.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
GPU = torch.device("lazy")
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class HostWait(AssertionError):
    """The host would wait for the GPU."""


class PretendedGPU(TorchDispatchMode):
    """A context in which there is such a GPU.

    Operations on tensors of the CPU alone are done. While it is `watched`, one that makes the host wait is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watched = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        found = list(_places(args)) + list(_places(kwargs.values()))
        if not any(on_gpu for on_gpu, _ in found):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if self.watched and not all(on_gpu for on_gpu, _ in found):
            if func in COPIES and kwargs.get("non_blocking", args[2:] == (True,)):
                if func is aten._to_copy.default and kwargs["device"].type == "cpu":  # known once it has come
                    with unset_fake_temporarily():
                        return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            elif (
                func in INDEXING | COPIES
                or func is aten.where.self
                or any(not on_gpu and size for on_gpu, size in found)
            ):  # of a number on the host any operation knows the value
                raise HostWait(f"{func} of tensors on the host and on the GPU")
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        self.watched = True
        try:
            yield
        finally:
            self.watched = False


def _places(values: Any) -> Iterator[tuple[bool, int]]:
    """Of all tensors and devices: whether it is the GPU, and the number of dimensions."""
    for value in values:
        if isinstance(value, Tensor):
            yield value.device.type == GPU.type, value.ndim
        elif isinstance(value, torch.device):
            yield value.type == GPU.type, 0
        elif isinstance(value, list | tuple):
            yield from _places(value)


def _autocast(usual: Callable[..., Any], there: Callable[[], Any], kind: str, *args: Any, **kwargs: Any) -> Any:
    return there() if kind == GPU.type else usual(kind, *args, **kwargs)


AUTOCAST = {
    "autocast": contextlib.nullcontext,
    "is_autocast_enabled": bool,
    "get_autocast_dtype": torch.get_default_dtype,
}


@functools.cache
def _mode() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)  # one for all tests: constants are kept from step to step


@contextlib.contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    gpu = PretendedGPU()
    with contextlib.ExitStack() as stack:
        for name, there in AUTOCAST.items():  # which knows no such device
            pretended = functools.partial(_autocast, getattr(torch, name), there)
            stack.enter_context(mock.patch.object(torch, name, pretended))
        stack.enter_context(_mode())
        yield stack.enter_context(gpu)
