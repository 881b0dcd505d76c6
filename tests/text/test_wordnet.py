"""The bundled glosses: what the file has, and that the script makes it."""

import bz2
import hashlib
import importlib.util
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from repel.text.datasets import wordnet_glosses

BUNDLED = ROOT / "src/repel/text/wordnet_mini/glosses.tsv.bz2"


@pytest.fixture(scope="module")
def build():
    """scripts/build_wordnet_mini.py."""
    spec = importlib.util.spec_from_file_location("build_wordnet_mini", ROOT / "scripts/build_wordnet_mini.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ten_balanced_classes_of_short_texts_none_twice():
    train, train_labels, test, test_labels, classes = wordnet_glosses()
    assert train_labels.dtype == test_labels.dtype == np.int64
    assert np.bincount(train_labels).tolist() == [1500] * 10
    assert np.bincount(test_labels).tolist() == [200] * 10
    assert classes == sorted(classes)
    assert len(train) == 15000
    assert len(test) == 2000
    assert len({" ".join(text.casefold().split()) for text in train + test}) == 17000  # in neither split twice
    assert {len(text.split()) for text in train + test} <= set(range(4, 33))
    assert all(text == text.strip() and text.isprintable() for text in train + test)


def test_labels_are_of_the_texts():
    train, labels, _, _, classes = wordnet_glosses()
    for beginning, expected in (("a person who", "person"), ("the act of", "act"), ("a city in", "location")):
        found = [classes[label] for text, label in zip(train, labels, strict=True) if text.startswith(beginning)]
        assert found.count(expected) > 0.9 * len(found) > 20


def test_file_is_small_and_unchanged():
    """Results are compared over years: a change of the data needs a new name."""
    assert BUNDLED.stat().st_size < 400_000
    content = bz2.decompress(BUNDLED.read_bytes())
    assert hashlib.sha256(content).hexdigest() == "61ba24a8370db5af3543d6d81589740d04314045340954c8342beb37aab6fc5d"
    license_text = (BUNDLED.parent / "LICENSE").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in license_text


def package(nouns: str) -> bytes:
    """A .deb with this data.noun: an ar archive whose members begin at even places."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz") as tar:
        member = tarfile.TarInfo("./usr/share/wordnet/data.noun")
        member.size = len(nouns.encode("latin-1"))
        tar.addfile(member, io.BytesIO(nouns.encode("latin-1")))
    deb = b"!<arch>\n"
    for name, data in (("debian-binary", b"odd"), ("data.tar.xz", archive.getvalue())):
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return deb


def test_script_picks_glosses_by_their_hash(build):
    def line(number, gloss):
        return f"00001740 {number} n 01 entity 0 003 ~ 00001930 n 0000 | {gloss}  \n"

    nouns = "  1 This software and database | is no gloss of any noun  \n"
    nouns += "".join(line("04", f"the {word} act of all") for word in ("first", "second", "third", "fourth"))
    nouns += line("04", 'the fifth act of all; "an example"; "another; one"') + line("05", "too short now")
    nouns += line("05", "found twice in animals") * 2 + line("06", "also an animal and artifact")
    nouns += line("05", "also an animal and artifact") + line("03", "of a class left out")
    found = build.glosses(build.noun_file(package(nouns)))
    assert {name: members for name, members in found.items() if members} == {"act": found["act"]}
    expected = {f"the {word} act of all" for word in ("first", "second", "third", "fourth", "fifth")}
    assert found["act"] == sorted(expected, key=lambda gloss: hashlib.sha256(gloss.encode()).hexdigest())
    table = [row.split("\t") for row in build.table({"act": [f"gloss {i}" for i in range(2000)]}).splitlines()]
    assert table[0] == ["train", "act", "gloss 200"]
    assert table[1500] == ["test", "act", "gloss 0"]
    assert len(table) == 1700


def test_another_package_is_refused(build, tmp_path, monkeypatch, capsys):
    (tmp_path / "other.deb").write_bytes(package(""))
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path / "other.deb")])
    assert build.main() == 2
    assert "is not wordnet-base 1:3.0-37" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "status", "word"), [("", 0, "identical to"), ("x", 1, "DIFFERS from")])
def test_check_compares_and_writes_nothing(change, status, word, build, tmp_path, monkeypatch, capsys):
    deb = package(f"00001740 04 n 01 entity 0 000 | the act of all{change}  \n")
    (tmp_path / "it.deb").write_bytes(deb)
    (tmp_path / "bundled").write_bytes(bundled := bz2.compress(b"train\tact\tthe act of all\n"))
    for name, value in (("TARGET", tmp_path / "bundled"), ("PACKAGE_SHA256", hashlib.sha256(deb).hexdigest())):
        monkeypatch.setattr(build, name, value)
    monkeypatch.setattr(build, "TEST", 0)
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path / "it.deb"), "--check"])
    assert build.main() == status
    assert word in capsys.readouterr().out
    assert build.TARGET.read_bytes() == bundled


@pytest.mark.slow
def test_rebuilt_from_debians_package_bit_for_bit(build, tmp_path, monkeypatch):
    """WORDNET_DEB says where the package is; else apt's cache is looked in."""
    places = [os.environ.get("WORDNET_DEB", ""), "/var/cache/apt/archives/wordnet-base_1%3a3.0-37_all.deb"]
    deb = next((place for place in places if place and Path(place).is_file()), None)
    if deb is None:
        pytest.skip("wordnet-base_1%3a3.0-37_all.deb is not here: apt-get download wordnet-base, WORDNET_DEB=PATH")
    monkeypatch.setattr(build, "TARGET", tmp_path / "glosses.tsv.bz2")
    monkeypatch.setattr("sys.argv", ["build", deb])
    assert build.main() == 0
    assert build.TARGET.read_bytes() == BUNDLED.read_bytes()
