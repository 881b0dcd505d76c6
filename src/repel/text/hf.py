"""Encoders of Hugging Face's transformers: token ids (B, L) -> features h (B, F)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repel.base.installation import install_extra
from repel.base.modes import evaluation_mode
from repel.data.samples import DataInfo
from repel.text.encoders import mean_of_real
from repel.text.texts import TextInfo

__all__ = ["HuggingFaceEncoder"]

POOLINGS = ("mean", "cls", "last")
LORA = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "modules": "target_modules"}
GROUPS, GROUP_SIZE = 8, 32  # on a CPU texts of about one length go together: so many groups, of so many texts at least
LOCAL = ("local_attention", "sliding_window")  # options of models whose tokens see near ones only


class HuggingFaceEncoder(nn.Module):
    """Any encoder that transformers.AutoModel loads, such as BERT, MiniLM, MPNet or E5, on its own tokenizer's ids.

    The model's special tokens, such as [CLS] and [SEP], are put around each text on the device. They are in the mean,
    as in sentence-transformers. The model's dropout is torch's own: other masks on each rank, see docs/reliability.md.

    The folder is needed wherever the encoder is built, for config.json and tokenizer.json; weights are read where
    training starts only.

    Args:
        name: a folder with config.json, tokenizer.json and model.safetensors, or a name on the Hugging Face hub.
        pooling: of the last layer: `mean` of all tokens of a text, `cls`, the first, or `last`, as for decoders.
        pretrained: False starts from random weights.
        local_files_only: False downloads what is not here yet.
        lora: trains low-rank updates of linear layers alone (Hu et al. 2022, arXiv:2106.09685): rank `r`, scale
            `alpha`, `dropout` and the names of the `modules`, by default all linear layers; None trains everything.

    Raises:
        ValueError: transformers or peft is not installed; the model cannot be loaded; an unknown pooling; a text is
            longer than the model's positions; the data was cut into tokens by another tokenizer.
    """

    packs = True  # on a CPU it computes less padding, unless it is compiled
    net: Any  # a transformers model
    prefix: Tensor
    suffix: Tensor

    def __init__(
        self,
        name: str,
        pooling: str = "mean",
        pretrained: bool = True,
        local_files_only: bool = True,
        lora: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"encoder.pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.pooling = pooling
        self.tokenizer_file, self.net = _load(name, pretrained, local_files_only)
        if "pooler" in dict(self.net.named_children()):
            self.net.pooler = None  # it would be trained for nothing, and several ranks ask for every gradient
        config = self.net.config
        self.out_features = config.hidden_size
        self.padding = config.pad_token_id or 0
        self.longest = getattr(config, "max_position_embeddings", None)
        for part, ids in zip(("prefix", "suffix"), _special_ids(self.tokenizer_file), strict=True):
            self.register_buffer(part, torch.tensor(ids, dtype=torch.int64), persistent=False)
        self.mask_form = _mask_form(self.net)
        if lora is not None:
            self.net = _with_lora(self.net, lora)
        self.train()  # transformers loads a model in eval mode, and Lightning would leave it so, without dropout

    def on_data(self, info: DataInfo) -> None:
        from tokenizers import Tokenizer

        assert isinstance(info, TextInfo)
        own = Tokenizer.from_file(self.tokenizer_file).get_vocab()
        if not info.tokenizer or Tokenizer.from_str(info.tokenizer).get_vocab() != own:
            raise ValueError(f"encoder=hf takes its own model's tokens; add data.tokenizer={self.tokenizer_file}")
        self._check_length(info.max_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        groups = min(GROUPS, tokens.shape[0] // GROUP_SIZE)
        if tokens.device.type != "cpu" or torch.compiler.is_compiling() or groups < 2:
            return self.features(tokens)
        # padding costs as much as tokens do; elsewhere lengths are not known without waiting for the device
        lengths = (tokens != 0).sum(1)
        order = lengths.argsort(stable=True)
        parts = [self.features(tokens[rows, : max(1, int(lengths[rows[-1]]))]) for rows in order.tensor_split(groups)]
        return torch.cat(parts)[order.argsort()]

    def features(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, F), all in one pass."""
        ids, real = self.with_special_tokens(tokens)
        mask = {"none": None, "whole": real.long(), "prepared": real[:, None, None]}[self.mask_form]
        hidden = self.net(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.pooling == "mean":
            return mean_of_real(hidden, real)
        if self.pooling == "cls":
            return hidden[:, 0]
        last = real.sum(1)[:, None, None] - 1
        return hidden.gather(1, last.expand(-1, 1, hidden.shape[2]))[:, 0]  # take_along_dim keeps sizes in ONNX

    def with_special_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Internal ids (B, L), 0 for padding -> the model's ids and which of them are real, both (B, L').

        Raises:
            ValueError: L' is more than the model has positions.
        """
        before, after, B = len(self.prefix), len(self.suffix), tokens.shape[0]
        length = before + tokens.shape[1] + after
        self._check_length(tokens.shape[1])
        ends = before + (tokens != 0).sum(1, keepdim=True)
        own = torch.where(tokens != 0, tokens.long() - 1, self.padding)
        ids = torch.cat([self.prefix.expand(B, -1), own, own.new_full((B, after), self.padding)], 1)
        places = torch.arange(max(length, after), device=tokens.device)
        ids = ids.scatter(1, ends + places[:after], self.suffix.expand(B, -1))
        return ids, (places < ends + after) | (places == 0)

    def _check_length(self, tokens: int) -> None:
        if self.longest is not None and (most := self.longest - len(self.prefix) - len(self.suffix)) < tokens:
            raise ValueError(f"a text may have {tokens} tokens, and this model takes {most}; cut by data.max_tokens")


def _load(name: str, pretrained: bool, local_files_only: bool) -> tuple[str, Any]:
    """The path of a model's tokenizer.json, and the model."""
    try:
        import transformers
        from transformers.utils import cached_file
    except ImportError as error:
        raise ValueError(f"encoder=hf needs transformers: {install_extra('text-hf')}") from error
    transformers.logging.set_verbosity_error()  # of weights that it has for other uses
    transformers.logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": local_files_only}
    name = str(Path(name).expanduser())
    if not Path(name).is_dir() and (name.count("/") > 1 or name[0] in "/."):
        raise ValueError(f"encoder.name={name}: there is no such folder")
    try:
        tokenizer = cached_file(name, "tokenizer.json", **options)
        if pretrained:
            return tokenizer, transformers.AutoModel.from_pretrained(name, dtype=torch.float32, **options)
        return tokenizer, transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(name, **options))
    except Exception as error:  # of many kinds: no file, no network, a damaged file, no such architecture
        reason = " ".join(str(error).split()).partition(". ")[0]
        also = ", or add encoder.local_files_only=false to download it" if local_files_only else ""
        raise ValueError(
            f"encoder.name={name} cannot be loaded ({reason}); give a folder with config.json, tokenizer.json and "
            f"model.safetensors{also}"
        ) from error


def _special_ids(tokenizer_file: str) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before a text and after it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    tokenizer.no_padding()
    encoding = tokenizer.encode("a")
    text = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return encoding.ids[: text[0]], encoding.ids[text[-1] + 1 :]


@torch.no_grad()
def _mask_form(net: Any) -> str:
    """How this model is to be told of padding at the end of texts, so that it does not ask the device about it.

    `none`: it sees only what comes before, and needs no mask. `prepared`: a mask (B, 1, 1, L), which it takes as it is.
    `whole`: (B, L), which transformers looks at to find out whether there is padding at all. Tried on three tokens.
    """
    ids, real = torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[True, True, False]])
    ids[:, 1:] = 1

    def hidden(mask: Tensor | None) -> Tensor:
        return net(input_ids=ids, attention_mask=mask).last_hidden_state[:, :2]

    with evaluation_mode(net):
        expected = hidden(real.long())
        if torch.allclose(hidden(None), expected, atol=1e-5):
            return "none"
        if any(getattr(net.config, option, None) for option in LOCAL):
            return "whole"
        try:
            return "prepared" if torch.allclose(hidden(real[:, None, None]), expected, atol=1e-5) else "whole"
        except (RuntimeError, ValueError, IndexError, TypeError):  # of a model that prepares masks itself
            return "whole"


def _with_lora(net: Any, options: Mapping[str, Any]) -> Any:
    if unknown := options.keys() - LORA.keys():
        raise ValueError(f"encoder.lora has no {', '.join(sorted(unknown))}; it has {', '.join(LORA)}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"encoder.lora needs peft: {install_extra('text-hf')}") from error
    given = {"target_modules": "all-linear"} | {LORA[name]: value for name, value in options.items()}
    return inject_adapter_in_model(LoraConfig(**given), net)
