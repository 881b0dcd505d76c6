"""Strings to tokens: a vocabulary that is learned from training texts, or one from a file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from repel.base.collectives import rank
from repel.base.progress import Progress
from repel.text.cache import ArrayWriter, kept_arrays
from repel.text.packed import PackedTexts
from repel.text.texts import RawTexts, Texts, ids_at

__all__ = ["FILE", "Tokenizer"]

FILE = "tokenizer.json"
UNKNOWN, MASK = "[UNK]", "[MASK]"  # the first tokens of a vocabulary that is learned here
MASKS = (MASK, "<mask>")  # names of the mask in others' vocabularies
BLOCK = 2**14  # texts at a time
SHOWN = 100_000  # texts from which on progress is shown
LETTERS = 200  # of a text, for each token that is kept, are looked at first: a text may be a book
MANY = 0.1  # of texts; where more are cut, a line says so
ALPHABET = 1000  # characters of a vocabulary of pieces; words with others are unknown


class Tokenizer:
    """Tokens of texts, by Hugging Face's `tokenizers`. 0 is padding; other ids are the library's plus 1.

    Args:
        kind: of what is learned: `word`, whole words in lower case without accents; `wordpiece`, frequent words whole
            and others in pieces (Schuster, Nakajima 2012; Devlin et al. 2019, arXiv:1810.04805). Chinese is taken
            character by character.
        vocabulary: tokens that are learned, at most.
        max_tokens: of a text; what follows is left out.
        file: a tokenizer.json of any kind, which is taken instead of learning one; or None.
        texts: of the training texts, evenly spaced, from which it is learned, at most.

    Raises:
        ValueError: an option is out of its range.

    >>> tokenizer = Tokenizer(kind="word", vocabulary=100, max_tokens=4)
    >>> tokenizer.fit(RawTexts.of(["a bird", "a plane"]))
    >>> tokenizer(RawTexts.of(["A plane", "a train and a bird"])).x.tolist()
    [[3, 5, 0, 0], [3, 1, 1, 3]]
    """

    files = (FILE,)

    def __init__(
        self,
        kind: str = "wordpiece",
        vocabulary: int = 8192,
        max_tokens: int = 32,
        file: str | None = None,
        texts: int = 200_000,
    ):
        if kind not in ("word", "wordpiece"):
            raise ValueError(f"data.tokens must be word or wordpiece, got {kind!r}")
        if vocabulary < 3 or max_tokens < 1 or texts < 1:
            raise ValueError(
                "data.vocabulary must be at least 3, data.max_tokens and data.tokenizer_texts at least 1, got "
                f"{vocabulary}, {max_tokens} and {texts}"
            )
        self.kind, self.vocabulary, self.max_tokens = kind, vocabulary, max_tokens
        self.file, self.texts = file, texts
        self.size = 0  # ids, the padding included
        self.cut = 0, 0  # how many texts were longer than max_tokens, and of how many
        self._library: Library | None = None

    @property
    def fitted(self) -> bool:
        return self._library is not None

    @property
    def library(self) -> Library:
        assert self._library is not None, "fit() comes first, or load_state_dict()"
        return self._library

    @property
    def mask(self) -> int:
        """The id of the mask; -1: there is none."""
        found = (self.library.token_to_id(name) for name in MASKS)
        return next((id + 1 for id in found if id is not None), -1)

    @property
    def json(self) -> str:
        return self.library.to_str()

    def state_dict(self) -> dict[str, str]:
        """Names of files -> what is in them: kept in checkpoints and in the run folder."""
        return {FILE: self.json}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        self._take(Library.from_str(state[FILE]))

    def inherit(self, state: Mapping[str, str] | None, source: str) -> None:
        """Take the tokenizer of weights from which a new run starts: they know tokens by their ids alone."""
        if self.file is None and state is None:
            raise ValueError(
                f"{source}: these weights know tokens by their ids, and no {FILE} lies beside them; name theirs: "
                "data.tokenizer=FILE"
            )
        if self.file is None:
            self.load_state_dict(state or {})
        elif state is not None and Library.from_str(state[FILE]).get_vocab() != _read(self.file).get_vocab():
            raise ValueError(
                f"data.tokenizer={self.file} has other tokens than {source} was trained with; leave it out"
            )

    def _take(self, library: Library) -> None:
        library.no_padding()
        library.enable_truncation(self.max_tokens)
        self._library = library
        self.size = max(library.get_vocab().values(), default=-1) + 2  # others' ids may have gaps

    def fit(self, train: RawTexts) -> None:
        """Learn the vocabulary from training texts and their positives and negatives: the same one every time.

        Raises:
            ValueError: the file, which is taken instead, is no tokenizer.
        """
        if self.file is not None:
            self._take(_read(self.file))
            return
        if (n := len(train)) > self.texts:
            train = train[torch.arange(self.texts) * n // self.texts]
        library = _library(models.WordLevel(unk_token=UNKNOWN) if self.kind == "word" else models.WordPiece())
        options: dict[str, Any] = {"vocab_size": self.vocabulary, "show_progress": False}
        if self.kind == "word":
            words = trainers.WordLevelTrainer(special_tokens=[UNKNOWN, MASK], **options)
            library.train_from_iterator(_strings(train), words)
        else:
            alphabet = _alphabet(library, train)
            # the library numbers these as it finds them, in another order in each process, and breaks ties by number
            special = [UNKNOWN, MASK, *(f"##{character}" for character in alphabet)]
            options |= {"initial_alphabet": alphabet, "limit_alphabet": len(alphabet)}
            library.train_from_iterator(_strings(train), trainers.WordPieceTrainer(special_tokens=special, **options))
            library = _library(models.WordPiece(library.get_vocab(with_added_tokens=False), unk_token=UNKNOWN))
        self._take(library)

    def notes(self) -> list[str]:
        """How many of the texts so far are cut, where that is many."""
        cut, total = self.cut
        words = f"{cut:,} of {total:,} texts are longer than data.max_tokens={self.max_tokens} and are cut there"
        return [words] if cut > MANY * total else []

    def __call__(self, samples: RawTexts) -> Texts:
        """The same samples as tokens."""
        places, store = samples.x, samples.store
        x, lengths = self._tokens(store.texts, places)
        more: dict[str, Any] = {}
        if store.positives is not None:
            more["positives"], longer = self._tokens(store.positives, places)
            more["positive_ids"], lengths = ids_at(store.positives, places), np.maximum(lengths, longer)
        if store.negatives:
            made = [self._tokens(column, places) for column in store.negatives]
            more["negatives"] = torch.stack([tokens for tokens, _ in made], 1)
            more["negative_lengths"] = np.maximum.reduce([length for _, length in made])
            more["negative_ids"] = torch.stack([ids_at(column, places) for column in store.negatives], 1)
        return Texts(
            x, samples.labels, samples.names, lengths=lengths, ids=ids_at(store.texts, places), places=places.numpy(),
            store=store, tokenizer=self, **more,
        )  # fmt: skip

    def _tokens(self, texts: Sequence[str], places: Tensor) -> tuple[Tensor, np.ndarray]:
        """(N, max_tokens) int32 of the texts at these places, and their lengths (N,); kept where the texts are."""
        folder, column = (texts.folder, texts.column) if isinstance(texts, PackedTexts) else (None, "")
        digest = blake2b(places.numpy().tobytes(), digest_size=16).hexdigest()
        kept = kept_arrays(folder, "tokens", [column, digest, self.json, self.max_tokens],
                           partial(self._write, texts, places))  # fmt: skip
        self.cut = self.cut[0] + kept.facts["cut"], self.cut[1] + len(places)
        return torch.from_numpy(kept.arrays["tokens"]), kept.arrays["lengths"]

    def _write(self, texts: Sequence[str], places: Tensor, writer: ArrayWriter) -> dict[str, Any]:
        """Tokens and lengths, a block of texts at a time; returns how many were cut."""
        cut = 0
        with Progress("tokens", writer.folder is not None or rank() == 0) as progress:
            for start in range(0, max(1, len(places)), BLOCK):
                found = self._encode([texts[place] for place in places[start : start + BLOCK].tolist()])
                cut += sum(len(ids) > self.max_tokens for ids in found)
                size = np.fromiter((min(len(ids), self.max_tokens) for ids in found), np.int64, len(found))
                flat = np.fromiter(chain.from_iterable(ids[: self.max_tokens] for ids in found), np.int32)
                tokens = np.zeros((len(found), self.max_tokens), np.int32)
                tokens[np.arange(self.max_tokens) < size[:, None]] = flat + 1
                writer.append("tokens", tokens)
                writer.append("lengths", size)
                if len(places) >= SHOWN:
                    progress(start + len(found), len(places), "texts")
        return {"cut": cut}

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """The library's ids of each, one more than max_tokens where a text is longer."""
        library, letters = self.library, LETTERS * (self.max_tokens + 1)
        library.enable_truncation(self.max_tokens + 1)
        found = [e.ids for e in library.encode_batch_fast([text[:letters] for text in texts], add_special_tokens=False)]
        for number, text in enumerate(texts):
            if len(text) > letters and len(found[number]) <= self.max_tokens:  # words of hundreds of letters
                found[number] = library.encode(text, add_special_tokens=False).ids
        library.enable_truncation(self.max_tokens)  # as its JSON says
        return found


def _library(model: models.Model) -> Library:
    """A tokenizer of words: lower case, without accents, punctuation and Chinese characters one by one."""
    library = Library(model)
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return library


def _alphabet(library: Library, samples: RawTexts) -> list[str]:
    """The most frequent characters of these texts, as the library normalizes them."""
    counts: Counter[str] = Counter()
    for text in _strings(samples):
        counts.update(library.normalizer.normalize_str(text))
    return [character for character, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:ALPHABET]
            if not character.isspace()]  # fmt: skip


def _strings(samples: RawTexts) -> Iterator[str]:
    """Every string of these samples."""
    store, places = samples.store, samples.x.tolist()
    for column in (store.texts, *(() if store.positives is None else (store.positives,)), *store.negatives):
        yield from (column[place] for place in places)


def _read(file: str) -> Library:
    path = Path(file).expanduser()
    path = path / FILE if path.is_dir() else path
    try:
        return Library.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"data.tokenizer={file} cannot be read ({error.strerror}); name a {FILE}") from error
    except Exception as error:  # the library raises no narrower one
        raise ValueError(f"data.tokenizer={file} is no {FILE} of Hugging Face's tokenizers ({error})") from error
