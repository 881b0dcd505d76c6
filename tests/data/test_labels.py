"""Tables of labels: what contradicts itself is refused, what does not fit is counted."""

import numpy as np
import pytest
from conftest import config

from repel.data.labels import Table
from repel.engine.build import build_data

NAMES = np.array(["a.png", "b.png", "c.png"], dtype=object)


def table(folder, text: str) -> Table:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return Table(str(folder / "labels.csv"))


@pytest.mark.parametrize(("text", "words"), [
    ("file,x\na.png,edema\nb.png,edema\na.png,fracture\n",
     "two rows of a.png differ in the column x: 'edema' and 'fracture'"),
    ("file,x,x\na.png,1,2\n", "two columns of the name x"),
    ("file,x,file\na.png,1,b.png\n", "two columns of the name file"),
    ("file,x\na.png,one,two\n", "the row of a.png has more cells than there are columns"),
])  # fmt: skip
def test_tables_that_contradict_themselves_are_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        table(tmp_path, text)


def test_rows_of_a_file_that_agree_are_one(tmp_path):
    found = table(tmp_path, "file, x,y\na.png,1,\nb.png,2,3\na.png,,4\na.png, 1,4 \n")
    assert {name: labels.tolist() for name, labels in found.lookup(NAMES).items()} == {"x": [0, 1, -1], "y": [1, 0, -1]}


ROWS = "file{0}kind{0}site\na.png{0}süß{0}1\nb.png{0}weiß{0}2\nc.png{0}süß{0}1\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("encoding", "typed"), [
    ("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("cp1252", "cp1252"), ("mac-roman", "mac-roman"),
])  # fmt: skip
def test_tables_of_other_programs_are_read(tmp_path, delimiter, encoding, typed):
    (tmp_path / "x.csv").write_text(ROWS.format(delimiter).replace("\n", "\r\n"), encoding=encoding, newline="")
    found = Table(str(tmp_path / "x.csv"), typed)
    assert found.classes["kind"] == ["süß", "weiß"]
    assert {name: labels.tolist() for name, labels in found.lookup(NAMES).items()} == {
        "kind": [0, 1, 0],
        "site": [0, 1, 0],
    }


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "x.csv").write_bytes(ROWS.format(",").encode("cp1252"))
    with pytest.raises(ValueError, match=r"x.csv is not UTF-8 \(line 2\); .*data\.labels_encoding=cp1252"):
        Table(str(tmp_path / "x.csv"))
    with pytest.raises(ValueError, match=r"is not ascii"):
        Table(str(tmp_path / "x.csv"), "ascii")
    with pytest.raises(ValueError, match=r"data\.labels_encoding=latin99: Python knows no such"):
        Table(str(tmp_path / "x.csv"), "latin99")


EXTRA = ",Image Path,kind,note,site\n" + "".join(
    f"{i},{name},{'x' if i else 'y'},text {i}; more,{i % 2}\n" for i, name in enumerate(NAMES)
)


def test_extra_columns_are_left_out(tmp_path):
    """Numbers of rows without a name, as pandas writes them; notes; another name for the column of files."""
    found = table(tmp_path, EXTRA)
    assert list(found.lookup(NAMES)) == ["kind", "site"]
    notes = found.notes(list(NAMES))
    assert any("the column Image Path names the samples" in note for note in notes)
    assert any("as most of their labels stand in one row alone: note; 'data.label_columns" in n for n in notes)
    (tmp_path / "labels.csv").write_text(EXTRA, encoding="utf-8")
    assert list(Table(str(tmp_path / "labels.csv"), None, ["site", "note"]).lookup(NAMES)) == ["site", "note"]
    with pytest.raises(
        ValueError, match=r"data\.label_columns: .* has no column sit of labels; it has Image Path, kind"
    ):
        Table(str(tmp_path / "labels.csv"), None, ["sit"])


@pytest.mark.parametrize("rows", [
    ["/home/me/data/train/cat/1.png", "/home/me/data/train/dog/2.png"],
    ["C:\\data\\train\\cat\\1.png", "C:\\data\\train\\dog\\2.png"],
    ["data/train/cat/1.png", "./train/dog/2.png"],
    ["cat/1.png", "2.png"],
    ["train/cat/1.png", "elsewhere/train/dog/2.png"],
])  # fmt: skip
def test_rows_name_samples_by_any_end_of_a_path(tmp_path, rows):
    names = np.array(["train/cat/1.png", "train/dog/2.png", "train/dog/3.png"], dtype=object)
    found = table(tmp_path, "file,x\n" + "".join(f"{row},{i}\n" for i, row in enumerate([*rows, "of/another.png"])))
    found.match(names)
    assert found.lookup(names)["x"].tolist() == [0, 1, -1]
    assert "1 of 3 files name no sample, the first: 'of/another.png'" in found.notes(list(names))[0]


@pytest.mark.parametrize(("rows", "words"), [
    (["1.png"], "the row of 1.png fits test/1.png and train/1.png; write their folders"),
    (["/a/train/1.png", "/b/train/1.png"], "the rows of /a/train/1.png and /b/train/1.png both fit train/1.png"),
])  # fmt: skip
def test_rows_that_fit_several_samples_are_refused(tmp_path, rows, words):
    found = table(tmp_path, "file,x\n" + "".join(f"{row},{i}\n" for i, row in enumerate(rows)))
    with pytest.raises(ValueError, match=words):
        found.match(["train/1.png", "test/1.png", "train/2.png"])


def test_names_match_however_they_are_spelled(tmp_path):
    found = table(tmp_path, "file,x\n./a\u0308.png,1\n\u00f6.png,2\n")
    names = np.array(["\u00e4.png", "o\u0308.png"], dtype=object)
    assert found.lookup(names)["x"].tolist() == [0, 1]
    assert found.notes(list(names)) == []


def test_what_does_not_fit_is_counted(tmp_path):
    assert table(tmp_path, "file,x\na.png,1\nb.png,2\nc.png,2\n").notes(list(NAMES)) == []
    notes = table(tmp_path, "file,x\na.png,1\nB.png,2\nx/c.png,2\n").notes(list(NAMES))
    assert [note.split(": ", 1)[1] for note in notes] == [
        "2 of 3 files name no sample, the first: 'B.png'",
        "2 of 3 samples have no row, the first: 'b.png'",
    ]


def test_columns_that_hold_no_classes_are_named(tmp_path):
    rows = "".join(
        f"{name},{age},{'NA' if age == 30 else 'yes'}\n" for name, age in zip(NAMES, (30, 31, 32), strict=True)
    )
    table(tmp_path, "file,age,ill\n" + rows)
    notes = Table(str(tmp_path / "labels.csv"), columns=["age", "ill"]).notes(list(NAMES))  # as they were chosen
    assert "column age: 3 of 3 labels stand in one row alone" in notes[0]
    assert "column ill: 'NA' counts as a class" in notes[1]
    assert len(notes) == 2


@pytest.mark.parametrize(("labels", "words"), [
    (("Cat", "cat", "cat"), "'Cat' and 'cat' are two labels"), (("1", "1.0", "1"), "'1' and '1.0' are two labels"),
    (("\u00e9", "e\u0301", "a"), "are two labels"), (("e", "\u00e9", "e"), ""), (("1", "11", "1"), ""),
])  # fmt: skip
def test_labels_that_look_like_one_are_named(tmp_path, labels, words):
    rows = "".join(f"{name},{label}\n" for name, label in zip(NAMES, labels, strict=True))
    notes = table(tmp_path, "file,x\n" + rows).notes(NAMES)
    assert bool(words) == bool(notes)
    assert words in "".join(notes)


@pytest.mark.parametrize("name", ["best", "class", "last", "z"])
def test_a_task_has_no_name_of_the_reports_own(name):
    """Such as test/best_knn_top1, which is of the other checkpoint."""
    data = build_data(config(f"+data.tasks.{name}=[a,a,a,a,a,b,b,b,b,b]"))
    with pytest.raises(ValueError, match=f"{name} is a name of the report's own; rename it"):
        data.setup()
