"""Texts and tokens of large files: read and tokenised once, in any process, and found complete or not at all."""

import os
from functools import partial

import numpy as np
import pytest
import torch

from repel.data.identity import changes, record_of
from repel.data.samples import Splits
from repel.data.splits import held_out, map_splits
from repel.text import cache, packed, tokenizer
from repel.text.cache import cache_folder, kept_arrays
from repel.text.line_files import text_lines
from repel.text.tokenizer import Tokenizer

LINES = [f"line {'word ' * (i % 7)} ä世 {i % 50}" for i in range(300)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(packed, "BLOCK", 7)
    monkeypatch.setattr(tokenizer, "BLOCK", 11)


def tokenised(path, folder):
    complete = held_out(text_lines(str(path), cache=folder), 0.1, 0.1, 0, "name")
    made = Tokenizer(max_tokens=5)
    made.fit(complete.train)
    return map_splits(made, complete), made


def entries(folder) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(root, name), folder) for root, _, names in os.walk(folder) for name in names
    )


def test_mapped_texts_and_tokens_are_those_in_memory(file, tmp_path, monkeypatch):
    plain, learned = tokenised(file, None)
    for again in (False, True):
        if again:  # all is found
            monkeypatch.setattr(Tokenizer, "_encode", None)
            monkeypatch.setattr("repel.text.reading.pack", None)
        mapped, same = tokenised(file, str(tmp_path / "kept"))
        assert (same.json, same.cut) == (learned.json, learned.cut)
        for part in ("train", "val", "test"):
            one, other = getattr(plain, part), getattr(mapped, part)
            for name in ("x", "ids"):
                assert torch.equal(getattr(one, name), getattr(other, name))
            assert np.array_equal(one.lengths, other.lengths)
            assert one.texts == other.texts
        assert sorted(mapped.train.texts + mapped.val.texts + mapped.test.texts) == sorted(LINES)
        assert mapped.train.store.texts[-1] == LINES[-1]
        assert mapped.train.store.texts[1:3] == LINES[1:3]


@pytest.mark.parametrize("damage", ["cut off", "of something else", "without facts", "no folder"])
def test_a_damaged_entry_is_made_anew(file, tmp_path, damage):
    folder = tmp_path / "kept"
    tokenised(file, str(folder))
    before = entries(folder)
    (data,) = folder.glob("many_txt-*/text.data")
    if damage == "cut off":
        os.truncate(data, 100)
    elif damage == "of something else":
        facts = data.parent / "facts.json"
        facts.write_text(facts.read_text(encoding="utf-8").replace('"digest": "', '"digest": "0'), encoding="utf-8")
    elif damage == "without facts":
        (data.parent / "facts.json").write_text("{", encoding="utf-8")
    else:
        (data.parent / "facts.json").unlink()
    assert text_lines(str(file), cache=str(folder)).train.texts == LINES
    tokenised(file, str(folder))
    assert entries(folder) == before


def test_a_changed_file_is_read_anew_and_its_old_entry_goes(file, tmp_path):
    folder = tmp_path / "kept"
    tokenised(file, str(folder))
    before = entries(folder)
    file.write_text("\n".join([*LINES, "one more"]), encoding="utf-8")
    assert text_lines(str(file), cache=str(folder)).train.texts == [*LINES, "one more"]
    assert len(list(folder.glob("many_txt-*"))) == 1
    assert not {*before} & {name for name in entries(folder) if "-" in name and not name.endswith(".lock")}


def test_a_build_that_fails_leaves_nothing_and_remains_are_removed(tmp_path):
    def fail(writer):
        writer.append("x", np.zeros(3))
        raise KeyboardInterrupt

    def build(number, writer):
        writer.append("x", np.full(3, number))
        return {"number": number}

    with pytest.raises(KeyboardInterrupt):
        kept_arrays(tmp_path, "it", 1, fail)
    assert entries(tmp_path) == [".it.lock"]
    made = kept_arrays(tmp_path, "it", 1, partial(build, 5))
    (tmp_path / f".{made.folder.name}.killed").mkdir()
    (made.folder / "x").unlink()
    assert kept_arrays(tmp_path, "it", 1, partial(build, 6)).facts == {"number": 6}
    assert kept_arrays(tmp_path, "it", 1, fail).arrays["x"].tolist() == [6, 6, 6]
    assert kept_arrays(tmp_path, "it", 2, partial(build, 7)).facts == {"number": 7}
    assert not list(tmp_path.glob(".*.killed"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.cache=.*file cannot be written .*data\.cache=null"):
        kept_arrays(tmp_path / "file", "it", 1, partial(build, 5))


def test_another_process_that_builds_is_waited_for(tmp_path, monkeypatch):
    """What happens between looking for an entry and having the lock: another process has written it."""

    def build(writer):
        writer.append("x", np.arange(3))
        return {}

    first = kept_arrays(tmp_path, "it", 1, build)
    found = iter([None, first])
    monkeypatch.setattr(cache, "_opened", lambda folder, digest: next(found))
    assert kept_arrays(tmp_path, "it", 1, None) is first


def test_auto_keeps_large_files_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("auto", cache.LARGE) is None
    assert cache_folder("auto", cache.LARGE + 1) == tmp_path / "repel"
    assert cache_folder(None, 10**12) is None
    assert cache_folder(str(tmp_path), 1) == tmp_path
    for typed in (False, "false", "True", ""):
        with pytest.raises(ValueError, match=r"data\.cache must be auto, null or a folder"):
            cache_folder(typed, 1)


def test_what_changed_is_said_without_names(file):
    before = record_of(held_out(text_lines(str(file)), 0.1, 0.1, 0, "name"))
    file.write_text("\n".join([*LINES[1:], "one more"]), encoding="utf-8")
    assert str(changes(before, text_lines(str(file)))) == "1 sample added, 1 sample removed"


def test_equal_texts_are_in_one_split(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("\n".join([f"text {i % 20}" for i in range(100)]), encoding="utf-8")
    for fraction in (0.3, 0.001):
        complete = held_out(Splits(text_lines(str(file)).train), fraction, fraction, 0, "name")
        parts = [set(part.texts) for part in (complete.train, complete.val, complete.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set().union(*parts)) == 20
