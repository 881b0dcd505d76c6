"""data=text_lines: a text a line, or a text a file in folders."""

import pytest
from conftest import config

from repel.engine.build import build_data
from repel.engine.data_limits import check_data
from repel.text.line_files import text_lines


def parts(splits) -> list:
    return [None if part is None else part.texts for part in (splits.train, splits.val, splits.test)]


@pytest.fixture
def folder(tmp_path):
    """Writes files below the folder and returns it as text."""

    def make(files: dict[str, str]) -> str:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode())
        return str(tmp_path)

    return make


def test_a_text_a_line(folder, tmp_path, capsys):
    folder({"t.txt": "one\r\n\r\n  two words \n\n\u3000\nשלום\none\rlast"})
    splits = text_lines(str(tmp_path / "t.txt"))
    assert parts(splits) == [["one", "two words", "שלום", "one", "last"], None, None]
    assert (splits.train.labels, splits.train.names, splits.classes) == (None, None, [])
    assert capsys.readouterr().out == (
        "texts    t.txt: found 8 lines, read 5, of which 1 repeat an earlier text; left out: 3 without a text\n"
    )
    (tmp_path / "u.txt").write_text("x\ny\n", encoding="utf-16")
    assert parts(text_lines(str(tmp_path / "u.txt")))[0] == ["x", "y"]
    with pytest.raises(ValueError, match=r"data\.unit=file: .* is one file"):
        text_lines(str(tmp_path / "t.txt"), unit="file")
    with pytest.raises(ValueError, match=r"data\.root=nowhere: there is no such file or folder"):
        text_lines("nowhere")


def test_a_few_texts_are_read_and_said_to_be_few(folder):
    for lines in ("word " * 100_000, "one\n", "one\none\none\n", "one\ntwo\nthree\n"):
        data = build_data(config("experiment=text", "data=text_lines", f"data.root={folder({'t.txt': lines})}/t.txt"))
        data.setup()
        assert len(data.splits.test) >= 1
        with pytest.raises(ValueError, match=r"larger than the 1 training samples|no training samples are left"):
            check_data(config("experiment=text", "data.batch_size=64"), None, data, 1)


def test_files_of_splits_hold_lines(folder):
    root = folder({"train.txt": "a\nb\n", "dev.txt": "c\n", "TEST.txt": "d\n", "README": "about"})
    assert parts(text_lines(root)) == [["a", "b"], ["c"], ["d"]]


def test_class_folders_and_splits_of_files(folder, capsys):
    root = folder({"Training/pos/1.txt": "good\nfilm", "Training/neg/2": "bad", "Training/neg/._2": "x",
                   "test/pos/3.txt": "fine", "test/neg/4.txt": "", "test/neg/5.jpg": "no"})  # fmt: skip
    splits = text_lines(root)
    assert parts(splits) == [["bad", "good\nfilm"], None, ["fine"]]
    assert (splits.classes, splits.train.labels.tolist(), splits.test.labels.tolist()) == (["neg", "pos"], [0, 1], [1])
    assert splits.train.names.tolist() == ["Training/neg/2", "Training/pos/1.txt"]
    lines = capsys.readouterr().out
    assert "found 6 files, read 4; left out: 1 .jpg, 1 hidden" in lines
    assert "texts    test: found 2 files, read 1; left out: 1 without a text" in lines
    assert parts(text_lines(root, unit="line"))[0] == ["bad", "good", "film"]


def test_folders_without_classes_and_what_is_unclear(folder, tmp_path):
    root = folder({"x/a.txt": "1", "x/b.txt": "2", "y/train.txt": "3", "y/bus.txt": "4"})
    assert parts(text_lines(root))[0] == ["1", "2", "4", "3"]
    assert text_lines(root).classes == ["x", "y"]
    assert text_lines(f"{root}/y").train.labels is None
    folder({"out.txt": "5"})
    with pytest.raises(ValueError, match=r"out\.txt lies outside the class folders"):
        text_lines(root)
    with pytest.raises(ValueError, match=r"data\.layout must be splits or classes"):
        text_lines(root, layout="imagenet")
    with pytest.raises(ValueError, match=r"data\.unit must be line or file or null"):
        text_lines(root, unit="word")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no texts in .*empty"):
        text_lines(f"{root}/empty")
