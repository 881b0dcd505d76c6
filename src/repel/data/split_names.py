"""Names of folders and files that look like splits, in any spelling."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["is_plainly_split", "plain_name", "split_named", "splits_among"]


def plain_name(text: str) -> str:
    """In lower case, without accents, so that an umlaut that macOS has written in two letters is one."""
    letters = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


SPELLINGS = {
    "train": "train", "training": "train", "trainval": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
    # of cross-validation, and words that mean another split in every second set: two are no classes, and no splits that
    # one could choose
    "fold": "fold", "development": "fold", "eval": "fold", "evaluation": "fold",
}  # fmt: skip
OTHER_LANGUAGES = {
    "train": "trainings entrenamiento treino treinamento entrainement apprentissage addestramento \
              训练 訓練 学習 학습 훈련 обучение",
    "val": "validacion validacao validierung validazione 验证 驗證 検証 검증 валидация",
    "test": "prueba pruebas teste testes 测试 測試 テスト 테스트 тест",
}
SPELLINGS |= {plain_name(word): split for split, words in OTHER_LANGUAGES.items() for word in words.split()}
# what names of splits have besides: seg_train, TrainingSet, train2017, test_images
AROUND = {
    "data", "dataset", "files", "folder", "image", "images", "img", "imgs", "photos", "pictures", "raw", "seg", "set",
    "split", "daten", "bilder", "imagenes", "imagens", "fotos", "集", "数据", "数据集", "图片", "图像",
    "データ", "画像", "데이터", "이미지",
}  # fmt: skip
AROUND = {plain_name(word) for word in AROUND}


def is_plainly_split(name: str) -> bool:
    """Whether a name is a split's and nothing else: train, Validation; not train2017, test_images."""
    return plain_name(name) in SPELLINGS


def split_named(name: str) -> str | None:
    """The split that a folder of this name looks like: Training, valid, seg_test, train2017; None for others.

    Names with any other word are none: train_station, bullet train.
    """
    split, others = _take_apart(name)
    return split if all(word in AROUND for word in others) else None


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Name -> split, of folders next to each other; also of birds_train next to birds_test."""
    names = list(names)
    found = {name: split for name in names if (split := split_named(name))}
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        split, others = _take_apart(name)
        if split:
            alike[others][name] = split
    for members in alike.values():
        if {"train"} < set(members.values()):
            found |= members
    return found


def _take_apart(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split in a name, None where there is none or several; its other words, without numbers and single letters."""
    words = re.findall(r"[^\W\d_]+", plain_name(re.sub(r"([a-z])([A-Z])", r"\1 \2", name)))
    found = {split for word in words if (split := _split_word(word))}
    others = tuple(word for word in words if len(word) > 1 and not _split_word(word))
    return (found.pop() if len(found) == 1 else None), others


def _split_word(word: str) -> str | None:
    """The split of one word, also where the next has grown on to it: testset."""
    for spelling, split in SPELLINGS.items():
        if word.startswith(spelling) and word[len(spelling) :] in ("", *AROUND):
            return split
    return None
