"""A whole training step on a GPU that is not there: from a batch's arrival to the target that follows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from conftest import config
from pretended_gpu import GPU, PretendedGPU
from text_runs import text_info
from tiny_graphs import ITEMS, TEXTS, USERS, pairs

from repel.data.loading import RawBatch
from repel.data.memory import TensorSamples
from repel.data.sampler import BatchIndices
from repel.engine.build import build_data, build_module
from repel.images.memory import Images
from repel.interactions.item_texts import ItemTexts
from repel.interactions.pairs import EntityStore, Interactions
from repel.model.optim import parameter_groups
from repel.text.learned_tokens import learned_tokens
from repel.text.texts import TextInfo, Texts

B, VOCABULARY = 6, 30
SMALL = ["head.out_features=8", "trainer.accelerator=cpu"]
OF = {  # the modality's own options
    "images": ["data.channels=3", "data.image_size=16"],
    "text": ["experiment=text", "head=linear", "optimizer=adamw", "data.max_tokens=8"],
    "interactions": ["experiment=ssm", "head=linear", "negatives=uniform"],
}


def _images() -> Images:
    return Images(torch.randint(256, (2 * B, 3, 16, 16), dtype=torch.uint8), torch.arange(2 * B) % 3)


def _texts() -> Texts:
    def some(*shape: int) -> torch.Tensor:
        return torch.randint(2, VOCABULARY, shape, dtype=torch.int32)

    n, lengths = 2 * B, np.full(2 * B, 5)
    return _Texts(
        some(n, 5), torch.arange(n) % 3, lengths=lengths, ids=torch.arange(n), places=np.arange(n),
        positives=some(n, 5), positive_ids=torch.arange(n) + n, negatives=some(n, 1, 4),
        negative_ids=torch.arange(n)[:, None] + 2 * n, negative_lengths=lengths - 1, tokenizer=SimpleNamespace(mask=1),
    )  # fmt: skip


class _Texts(Texts):
    def info(self) -> TextInfo:
        return replace(text_info(VOCABULARY), negatives=1)


def _interactions() -> Interactions:
    features = {"user_features": torch.rand(USERS, 3), "item_labels": torch.arange(ITEMS) % 3}
    return Interactions(
        pairs(), store=EntityStore(USERS, ITEMS, item_texts=ItemTexts(TEXTS, learned_tokens), **features)
    )


SAMPLES = {"images": _images, "text": _texts, "interactions": _interactions}


class Step:
    """A network with its data on the GPU.

    Args:
        typed: options besides the modality's.
        samples: held by the GPU; loss: in place of the one that is typed.
    """

    def __init__(self, modality: str, typed: list[str], on_device: bool = True):
        cfg = config(*OF[modality], *SMALL, *typed)
        self.data, self.module = build_data(cfg), build_module(cfg)
        samples: TensorSamples = SAMPLES[modality]()
        self.data._splits = SimpleNamespace(train=samples)
        self.module.give_data_info(self.data.info())
        self.samples, self.on_device = samples, on_device

    def to_gpu(self) -> None:
        module = self.module.to(GPU)
        self.data.cache = self.samples.to(GPU) if self.on_device else None
        self.optimizer = module.optimizer(parameter_groups([module.encoder, module.head, module.loss], 0.0))
        module.on_train_start()
        module.log_dict = lambda *args, **kwargs: None
        self.data.trainer = SimpleNamespace(training=True, lightning_module=module)

    def batch(self) -> RawBatch:
        """As it arrives."""
        places = torch.arange(B)
        indices = BatchIndices(0, 0, places, slice(0, B), B)
        labels = None if self.samples.labels is None else self.samples.labels[places]
        fetched = None
        if not self.on_device:
            fetched = self.samples.fetch(places, self.data._draws(indices))
        return RawBatch(indices, labels, fetched)

    def take(self, gpu: PretendedGPU, batch: RawBatch) -> None:
        module = self.module
        with gpu.watch():
            moved = self.data.transfer_batch_to_device(batch, GPU, 0)
            pair = self.data.on_after_batch_transfer(moved, 0)
            module.training_step(pair, 0).backward()
            module.on_after_backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if module.target is not None:
                module.target.follow(module.encoder, module.head)
