"""data=text_csv: files as people have them; each works, or gets one line that names the option."""

import pytest
import torch
from runs_here import status

from repel.engine import checkpoint_io, runs
from repel.engine.configs import load_config
from repel.engine.data_identity import read_to_evaluate
from repel.engine.fit import fit
from repel.text.csv_files import text_csv


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path as text."""

    def file(content: str | bytes, name: str = "texts.csv", encoding: str = "utf-8") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return str(path)

    return file


ROWS = "text,kind,other,bad,worse\na,x,a2,b1,b2\nb,y,c2,d1,d2\n,x,e2,f1,f2\na,,g2,h1,h2\nd,y,,k1,k2\ne,x,i2,j1,\n"


def test_columns_are_named_and_what_lacks_a_cell_is_left_out_and_counted(write, capsys):
    splits = text_csv(write(ROWS), label="kind", positive="other", negative=["bad", "worse"])
    store = splits.train.store
    assert splits.train.texts == ["a", "b", "a"]
    assert (splits.classes, splits.train.labels.tolist()) == (["x", "y"], [0, 1, -1])
    assert (list(store.positives), [list(column) for column in store.negatives]) == (
        ["a2", "c2", "g2"], [["b1", "d1", "h1"], ["b2", "d2", "h2"]])  # fmt: skip
    line = capsys.readouterr().out
    assert line == ("texts    texts.csv: found 6 rows, read 3, of which 1 repeat an earlier text; left out: 1 "
                    "without a text, 1 without a positive, 1 without a negative\n")  # fmt: skip
    plain = text_csv(write(ROWS))
    assert (plain.train.texts, plain.train.labels, plain.train.store.positives) == (list("abade"), None, None)
    assert "columns not read: kind, other, bad, worse; data.label=COLUMN takes labels" in capsys.readouterr().out


LETTERS = ["emoji 👩‍👩‍👧",
           "שלום עולם", "漢字和假名", "two\nlines, and a comma", "naïve", 'a "quoted" word', "x" * 2**18,
           "a\0b", "one"]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_encodings_line_ends_and_scripts(write, delimiter, encoding, end):
    cells = ['"' + text.replace('"', '""') + '"' for text in LETTERS]
    rows = end.join([f"id{delimiter}Sentence", *(f"{i}{delimiter}{cell}" for i, cell in enumerate(cells)), ""])
    assert text_csv(write(rows, encoding=encoding)).train.texts == LETTERS


def test_other_encodings_are_named_and_a_wrong_byte_is_one_line(write):
    file = write("text\nplain\ncafé €\n", encoding="cp1252")
    assert text_csv(file, encoding="cp1252").train.texts == ["plain", "café €"]
    with pytest.raises(ValueError, match=r"texts\.csv is not UTF-8 \(line 3\); .*data\.encoding=cp1252") as error:
        text_csv(file)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"is not ASCII \(line 3\)"):
        text_csv(file, encoding="ascii")
    with pytest.raises(ValueError, match=r"data\.encoding=klingon: Python knows no such encoding"):
        text_csv(file, encoding="klingon")
    with pytest.raises(ValueError, match=r"a zero in 50% of its bytes.*data\.encoding=utf-16-le"):
        text_csv(write("text\nplain\nwords\n", encoding="utf-16-le"))


REFUSED = {  # content, options -> what the line says
    "no sensible name": ("a,b\n1,2\n", {}, r"data\.text=COLUMN must say which .*texts\.csv has a, b"),
    "two sensible names": ("title,body\n1,2\n", {}, r"data\.text=COLUMN must say which .* has title, body"),
    "no such column": (
        "text,b\n1,2\n",
        {"label": "c"},
        r"data\.label=c: texts\.csv has no such column; it has text, b",
    ),
    "one column as two": (
        "text,b\n1,2\n",
        {"positive": "b", "negative": ["b"]},
        r"data\.positive and data\.negative: the column b is named twice",
    ),
    "another text": ("text,b\n1,2\n", {"text": "c"}, r"data\.text=c: texts\.csv has no such column; it has text, b"),
    "a name twice": ("text,b,b\n1,2,3\n", {"label": "b"}, r"data\.label=b: texts\.csv has two columns of this name"),
    "long row": ("text,b\n1,2\n3,4,5\n", {}, r"texts\.csv, line 3: 3 cells, and the first row names 2 columns"),
    "open quote": ('text,b\n1,2\n"3,4\n5,6\n', {}, r"texts\.csv, line 4: .*data\.quotes=false"),
    "loose quote": ('text,b\n"a" b,2\n', {}, r"texts\.csv, line 2: .*data\.quotes=false"),
    "no rows": ("text,b\n", {}, r"data\.root: no texts in texts\.csv: found 0 rows, read 0"),
    "nothing": ("", {}, r"data\.text=COLUMN must say"),
    "only empty": (
        "text,b\n,1\n  ,2\n",
        {},
        r"no texts in texts\.csv: found 2 rows, read 0; left out: 2 without a text",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(write, case):
    content, options, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as error:
        text_csv(write(content), **options)
    assert "\n" not in str(error.value)


def test_short_rows_blank_lines_and_quotes_as_letters(write, capsys):
    assert text_csv(write("b,text,c\n1,x\n\n2\n3,y,z,\n")).train.texts == ["x", "y"]
    assert "found 4 rows, read 2; left out: 2 without a text" in capsys.readouterr().out
    assert text_csv(write('text\tb\n"a" b\t1\n"c\t2\n'), quotes=False).train.texts == ['"a" b', '"c']


def test_splits_lie_in_files_of_their_names(tmp_path, write, capsys):
    for name, rows in (("Training.csv", "a,x\nb,y\n"), ("valid.csv", "c,X\n"), ("test_set.csv", "a,y\nd,x\n")):
        write("text,kind\n" + rows, name)
    write("id\n1\n", "sample_submission.csv")
    splits = text_csv(str(tmp_path), label="kind")
    assert [part.texts for part in (splits.train, splits.val, splits.test)] == [["a", "b"], ["c"], ["a", "d"]]
    assert (splits.classes, splits.val.labels.tolist()) == (["X", "x", "y"], [0])
    lines = capsys.readouterr().out
    assert "left out as no split of train, val and test: sample_submission.csv" in lines
    assert "note     'X' and 'x' are two classes; spell them alike if they are one" in lines
    assert "note     1 of 2 test texts are in train, too" in lines
    assert "val texts are in train" not in lines
    write("text\nd\n", "test_set.csv")
    assert text_csv(str(tmp_path), label="kind").test is None
    assert "test_set.csv has no column kind: it is left out" in capsys.readouterr().out
    write("text,kind\na,x\n", "train.csv")
    with pytest.raises(ValueError, match=r"Training\.csv and train\.csv look like the train split"):
        text_csv(str(tmp_path))


def test_a_folder_without_train_and_a_place_that_is_not_there(tmp_path, write):
    write("text\na\n", "one.csv")
    assert text_csv(str(tmp_path)).train.texts == ["a"]  # the only file
    write("text\na\n", "two.csv")
    with pytest.raises(ValueError, match=r"a folder with train\.csv .*; it has one\.csv, two\.csv"):
        text_csv(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.root=nowhere: there is no such file or folder"):
        text_csv("nowhere")


def test_labels_that_name_rows_are_said_to_be_none(write, capsys):
    rows = "".join(f"text {i},{i % 20},{i % 3}\n" for i in range(25))
    text_csv(write("text,id,kind\n" + rows), label="id")
    assert "note     15 of 20 labels stand in one row of train alone" in capsys.readouterr().out
    text_csv(write("text,id,kind\n" + rows), label="kind")
    assert "alone" not in capsys.readouterr().out


def test_equal_texts_are_one_entity(write):
    keys = text_csv(write("text\na\nb\n a \n")).train.keys()
    assert keys[0] == keys[2] != keys[1]
    assert keys.dtype == torch.int64


QUICK = ["experiment=text", "data=text_csv", "data.batch_size=8", "data.vocabulary=50", "trainer.max_epochs=1",
         "trainer.limit_train_batches=2", "callbacks.pairs=null", "callbacks.knn=null", "logger.tensorboard=null",
         "evaluators=[]"]  # fmt: skip


@pytest.mark.slow
def test_a_run_on_pairs_and_hard_negatives_and_its_mistakes(write, tmp_path):
    rows = "Review Text,yes,no\n" + "".join(f"word {i},other {i},not {i}\n" for i in range(40))
    options = [*QUICK, f"data.root={write(rows)}", "views=pair", "data.text=Review Text"]
    code, line = status(tmp_path / "bad", *options, "data.positive=maybe")
    assert (code, "\n" in line) == (2, False)
    assert "data.positive=maybe: texts.csv has no such column; it has Review Text, yes, no" in line
    assert status(tmp_path / "run", *options, "data.positive=yes", "data.negative=no") == (0, "")
    contents = checkpoint_io.load(tmp_path / "run/checkpoints/last.ckpt")
    cfg = load_config(runs.current_config(tmp_path / "run"))
    assert read_to_evaluate(cfg, contents, None).splits.train.negatives.shape[1] == 1
    write(rows + "a new one,b,c\n")  # others stay where they are
    data = read_to_evaluate(cfg, contents, None)
    assert len(data.splits.train) + len(data.splits.val) + len(data.splits.test) == 41
    with pytest.raises(ValueError, match=r"the data has changed since the run began: 1 sample added; a run resumes"):
        fit(cfg, tmp_path / "run", resume=True)
