"""Two ways to train a text encoder by pairs: this project's and sentence-transformers'. Each runs in its own process.

Both get the same strings, tokenizer.json, initial weights, loss, batch, learning rate and optimizer, the fused AdamW,
which is sentence-transformers' default.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _benchmark import peak_memory
from torch import Tensor, nn

from repel.base.cores import limit_threads

SCALE = 20.0
MAX_TOKENS = 32  # of a text; special tokens come on top
WARM_UP = 10  # steps that are not timed
Encode = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Case:
    """One training.

    library: sentence-transformers, repel, or repel-whole: with the callbacks, checkpoints and logs of train.py.
    encoder: bert, by transformers' BertModel in both; bag: StaticEmbedding there, BagOfTokens here.
    folder: has texts.json, tokenizer.json and the initial weights.
    """

    library: str
    encoder: str
    seed: int
    epochs: int
    batch: int
    lr: float
    folder: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Clock:
    """When steps ended, and the memory before the first of them."""

    def __init__(self):
        self.cuda, self.ends, self.cpu = torch.cuda.is_available(), [], []
        self.before = 0
        self.started = 0.0

    def start(self) -> None:
        self.before, self.started = peak(), time.perf_counter()

    def step(self, network: nn.Module) -> None:
        """A step of this network has ended.

        Raises:
            RuntimeError: a part of it is in evaluation mode, where there is no dropout.
        """
        if not self.ends and not all(part.training for part in network.modules()):
            raise RuntimeError("the network, or a part of it, trains in evaluation mode: without dropout")
        if len(self.ends) == WARM_UP - 1 and self.cuda:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def found(self, batch: int) -> dict[str, float]:
        """Texts a second after warming up, of wall time and of CPU time; seconds of the whole; memory in bytes."""
        if self.cuda:
            torch.cuda.synchronize()
        now, cpu, texts = time.perf_counter(), time.process_time(), batch * (len(self.ends) - WARM_UP)
        return {
            "texts_per_second": texts / (now - self.ends[WARM_UP - 1]),
            "texts_per_cpu_second": texts / (cpu - self.cpu[WARM_UP - 1]),
            "seconds": now - self.started,
            "peak": peak(),
            "growth": peak() - self.before,
            "steps": len(self.ends),
        }


def peak() -> int:
    """Bytes: on a GPU, the most that torch had allocated; or else this process's largest resident set so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_memory()


def load_texts(case: Case) -> dict[str, Any]:
    return json.loads(Path(case.folder, "texts.json").read_text(encoding="utf-8"))


def measure(case: Case) -> dict[str, Any]:
    """Train, and say how fast it was and how good the features are, before and after."""
    from repel.evaluation import knn_top1

    limit_threads()
    texts, clock = load_texts(case), Clock()
    train = train_st if case.library == "sentence-transformers" else train_repel
    with tempfile.TemporaryDirectory() as folder:
        begin, encode = train(case, texts, clock, Path(folder))
        before = torch.nn.functional.normalize(encode(texts["test"][:16]).float(), dim=1)
        clock.start()
        begin()
        found = clock.found(case.batch)
    bank, queries = encode(texts["all"]).float(), encode(texts["test"]).float()
    accuracy = knn_top1(bank, texts["labels"], queries, texts["test_labels"])
    threads = torch.get_num_threads()
    return found | {"knn_top1": accuracy, "threads": threads, "start": before[:, :4].flatten().tolist()}


def train_repel(case: Case, texts: dict[str, Any], clock: Clock, folder: Path) -> tuple[Callable, Encode]:
    from _text_training import prepare, text_config, text_encoder
    from _training import BARE, fit
    from lightning.pytorch import Callback

    from repel.data.samples import Splits
    from repel.text.texts import RawTexts

    class Steps(Callback):
        def on_train_batch_end(self, _: Any, module: Any, *__: Any) -> None:
            clock.step(module)

    width = json.loads(Path(case.folder, "config.json").read_text(encoding="utf-8"))["hidden_size"]
    encoder = ["encoder=bag", "encoder.token_weights=none", f"encoder.width={width}"]
    if case.encoder == "bert":
        encoder = ["encoder=hf", f"encoder.name={case.folder}"]
    cfg = text_config(
        *encoder, *(BARE if case.library == "repel" else []), f"data.tokenizer={case.folder}/tokenizer.json",
        "views=pair", "loss=infonce", "loss.symmetric=false", f"loss.temperature={1 / SCALE}",
        f"data.max_tokens={MAX_TOKENS}", f"data.batch_size={case.batch}",
        "optimizer=adamw_fused", f"optimizer.lr={case.lr}", "optimizer.weight_decay=0", "schedule=constant",
        f"trainer.max_epochs={case.epochs}", f"seed={case.seed}", "head=identity", f"head.out_features={width}",
    )  # fmt: skip
    train = RawTexts.of(texts["first"], texts["train_labels"], positives=texts["second"])
    val = RawTexts.of(texts["val"], texts["val_labels"], positives=texts["val"])
    test = RawTexts.of(texts["test"], texts["test_labels"])
    module, data = prepare(cfg, Splits(train, test, val, classes=texts["classes"]))
    if case.encoder == "bag":
        table = torch.load(Path(case.folder, "bag.pt"), weights_only=True)
        with torch.no_grad():
            module.encoder.vectors.weight[1:].copy_(table)
    encode = text_encoder(module.encoder, data.transform)
    return lambda: fit(cfg, module, data, folder, [Steps()]), encode


def train_st(case: Case, texts: dict[str, Any], clock: Clock, folder: Path) -> tuple[Callable, Encode]:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
            clock.step(model)

    model = SentenceTransformer(modules=_st_modules(case))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), num_train_epochs=case.epochs, per_device_train_batch_size=case.batch,
        learning_rate=case.lr, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0, seed=case.seed,
        dataloader_drop_last=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, loss=losses.MultipleNegativesRankingLoss(model, scale=SCALE),
        train_dataset=Dataset.from_dict({"anchor": texts["first"], "positive": texts["second"]}), callbacks=[Steps()],
    )  # fmt: skip

    def encode(strings: Sequence[str]) -> Tensor:
        return model.encode(list(strings), batch_size=256, convert_to_tensor=True, show_progress_bar=False).cpu()

    return trainer.train, encode


def _st_modules(case: Case) -> list[Any]:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

    if case.encoder == "bag":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(f"{case.folder}/tokenizer.json")
        tokenizer.enable_truncation(MAX_TOKENS)
        table = torch.load(Path(case.folder, "bag.pt"), weights_only=True)
        return [StaticEmbedding(tokenizer, embedding_weights=table)]
    transformer = Transformer(case.folder, max_seq_length=MAX_TOKENS + 2)
    return [transformer, Pooling(transformer.get_embedding_dimension(), "mean")]
