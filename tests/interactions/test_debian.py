"""The bundled dependencies: what the file has, and that the script makes it."""

import bz2
import hashlib
import importlib.util
import lzma
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from repel.interactions.datasets import debian_mini

BUNDLED = ROOT / "src/repel/interactions/debian_mini/dependencies.tsv.bz2"
INDEX = """Package: app
Source: game (1.2-3)
Version: 1.2-3+b1
Depends: libc6 (>= 2.34), python3:any | python, data
Pre-Depends: dpkg (>= 1.17)
Description: depends on
 nothing: it is a line of a description
Section: games

Package: data
Source: game
Recommends: dpkg
Section: contrib/games

Package: libc6
Source: glibc
Depends: virtual-name
Section: libs

Package: python3
Depends: libc6
Section: python

Package: dpkg
Section: admin
"""


@pytest.fixture(scope="module")
def build():
    """scripts/build_debian_mini.py."""
    spec = importlib.util.spec_from_file_location("build_debian_mini", ROOT / "scripts/build_debian_mini.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def splits():
    return debian_mini()


def test_a_core_of_pairs_none_twice(splits):
    store, parts = splits.train.store, (splits.train, splits.val, splits.test)
    assert [part.store is store for part in parts] == [True] * 3
    pairs = torch.cat([part.x for part in parts])
    assert pairs.dtype == torch.int32
    assert len(pairs) == len(pairs.unique(dim=0)) == 79071
    assert torch.bincount(pairs[:, 0]).min() >= 6
    assert torch.bincount(pairs[:, 1]).min() >= 8
    assert (store.users, store.items) == (len(store.user_names), len(store.item_names)) == (6673, 1744)
    assert list(store.user_names) == sorted({*store.user_names})
    assert list(store.item_names) == sorted({*store.item_names})
    assert store.item_labels.shape == (1744,)
    assert torch.bincount(store.item_labels).min() >= 1
    assert store.classes == sorted({*store.classes})
    assert store.classes[store.item_labels[store.item_names.index("libc6")]] == "libs"


def test_split_of_each_user_by_the_hash_of_the_pair(splits):
    store = splits.train.store
    for user in (0, 1234, 6672):
        found = [part.x[part.x[:, 0] == user, 1].tolist() for part in (splits.test, splits.val, splits.train)]
        names = [store.item_names[item] for part in found for item in part]
        ordered = sorted(
            names, key=lambda item: hashlib.sha256(f"{store.user_names[user]} {item}".encode()).hexdigest()
        )
        tenth = int(len(names) / 10 + 0.5)
        assert [len(part) for part in found] == [tenth, tenth, len(names) - 2 * tenth]
        assert {*names[:tenth]} == {*ordered[:tenth]}
        assert {*names[tenth : 2 * tenth]} == {*ordered[tenth : 2 * tenth]}


def test_file_is_small_and_unchanged():
    """Results are compared over years: a change of the data needs a new name."""
    assert BUNDLED.stat().st_size < 130_000
    content = bz2.decompress(BUNDLED.read_bytes())
    assert hashlib.sha256(content).hexdigest() == "f992e4d55605b61c4777df7438633c56b75650ab15f39b940d3b6b1e0fd01156"
    assert "facts from the Debian project's index" in (BUNDLED.parent / "LICENSE").read_text(encoding="utf-8")


def test_script_reads_sources_and_first_alternatives(build):
    pairs, sections = build.dependencies(INDEX)
    assert pairs == {("game", "libc6"), ("game", "python3"), ("game", "dpkg"), ("python3", "libc6")}
    assert sections == {"app": "games", "data": "games", "libc6": "libs", "python3": "python", "dpkg": "admin"}


def test_script_takes_the_core_to_the_fixed_point(build, monkeypatch):
    monkeypatch.setattr(build, "CORE", (2, 2))
    square = {(user, item) for user in "ab" for item in "xy"}
    assert (
        build.core(square | {("c", "x"), ("c", "z"), ("d", "z")}) == square
    )  # without d, z has one user, then c one item
    table = build.table(square, {"x": "libs", "y": "admin"}).splitlines()
    assert table[:2] == ["item\tx\tlibs", "item\ty\tadmin"]
    assert table[2:] == ["user\ta\t0 1\t\t", "user\tb\t0 1\t\t"]


@pytest.mark.parametrize(("built", "status", "word"), [("", 0, "identical to"), ("x", 1, "DIFFERS from")])
def test_check_compares_and_leaves_the_file(built, status, word, build, tmp_path, monkeypatch, capsys):
    (tmp_path / "Packages.xz").write_bytes(lzma.compress(INDEX.encode()))
    (tmp_path / "bundled").write_bytes(before := bz2.compress(built.encode()))
    for name, value in (("TARGET", tmp_path / "bundled"), ("INDEX_SHA256", hashlib.sha256(INDEX.encode()).hexdigest())):
        monkeypatch.setattr(build, name, value)
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path / "Packages.xz"), "--check"])
    assert build.main() == status  # no pair of the index is in the core of 6 and 8
    assert word in capsys.readouterr().out
    assert build.TARGET.read_bytes() == before


def test_another_index_is_refused(build, tmp_path, monkeypatch, capsys):
    (tmp_path / "Packages").write_text(INDEX, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path / "Packages")])
    assert build.main() == 2
    assert "is not the index of Debian 12.15" in capsys.readouterr().err


@pytest.mark.slow
def test_rebuilt_from_debians_index_bit_for_bit(build, tmp_path, monkeypatch):
    """DEBIAN_PACKAGES says where the index is."""
    index = os.environ.get("DEBIAN_PACKAGES", "")
    if not Path(index).is_file():
        pytest.skip("the index of Debian 12.15 is not here: DEBIAN_PACKAGES=PATH, see scripts/build_debian_mini.py")
    monkeypatch.setattr(build, "TARGET", tmp_path / "dependencies.tsv.bz2")
    monkeypatch.setattr("sys.argv", ["build", index])
    assert build.main() == 0
    assert build.TARGET.read_bytes() == BUNDLED.read_bytes()
