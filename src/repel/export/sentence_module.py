"""bag_of_tokens.py of a folder for sentence-transformers: needs nothing of this package."""

__all__ = ["SENTENCE_MODULE"]

SENTENCE_MODULE = '''"""A module of sentence-transformers: the mean of token vectors, where early tokens count more."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import InputModule
from tokenizers import Tokenizer
from torch import nn


class BagOfTokens(InputModule):
    """A token at place i, from 1, counts exp(its log weight) * i**-position_decay. A text without tokens is 0."""

    def __init__(self, tokenizer, vectors, log_weights, position_decay):
        super().__init__()
        self.tokenizer = tokenizer
        self.vectors, self.log_weights = nn.Parameter(vectors), nn.Parameter(log_weights)
        self.register_buffer("position_decay", position_decay)

    def preprocess(self, inputs, prompt=None, **kwargs):
        texts = [(prompt or "") + text for text in inputs]
        found = [one.ids for one in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        ids = torch.zeros(len(found), max([1, *map(len, found)]), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(found):
            ids[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
            mask[row, : len(one)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, features, **kwargs):
        ids, mask = features["input_ids"], features["attention_mask"]
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        weights = self.log_weights[ids].exp() * mask * places**-self.position_decay
        total = weights.sum(1, keepdim=True)
        shares = weights / total.masked_fill(total == 0, 1)
        features["sentence_embedding"] = torch.bmm(shares[:, None], self.vectors[ids])[:, 0]
        return features

    def get_embedding_dimension(self):
        return self.vectors.shape[1]

    def save(self, output_path, *args, **kwargs):
        save_file(self.state_dict(), Path(output_path, "model.safetensors"))
        self.tokenizer.save(str(Path(output_path, "tokenizer.json")))

    @classmethod
    def load(cls, path, subfolder="", token=None, cache_folder=None, revision=None, local_files_only=False, **kwargs):
        place = {"subfolder": subfolder, "token": token, "cache_folder": cache_folder, "revision": revision,
                 "local_files_only": local_files_only}  # fmt: skip
        tokenizer = Tokenizer.from_file(cls.load_file_path(path, "tokenizer.json", **place))
        return cls(tokenizer, **cls.load_torch_weights(path, **place))
'''
