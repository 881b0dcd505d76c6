"""Tables of labels: what contradicts itself is refused, what does not fit is counted."""

import numpy as np
import pytest

from repel.data.labels import Table

NAMES = np.array(["a.png", "b.png", "c.png"], dtype=object)


def table(folder, text: str) -> Table:
    (folder / "labels.csv").write_text(text)
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
    notes = table(tmp_path, "file,age,ill\n" + rows).notes(list(NAMES))
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
