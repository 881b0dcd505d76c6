"""Where splits and classes lie: names of splits in any spelling, and what is refused as unclear."""

import pytest
from conftest import make_folder

from repel.data.split_names import split_named, splits_among
from repel.images.folder import image_folder

SPELLED = {
    "train": "Train TRAIN Training train_set TrainingSet trainset seg_train train2017 train_images trainA trainval "
    "Trainingsdaten Entrenamiento Treino entrainement entraînement entrai\u0302nement 训练集 学習データ 학습",
    "val": "Val valid Validation VALID val2014 valset images_val dev Validación 验证集",
    "test": "Test testing TESTING testset seg_test test-images test_data Testdaten Pruebas 测试集 テスト画像",
}
CLASSES = ["train_station", "bullet train", "test_tube", "trainer", "valley", "valve", "contest", "Testament",
           "train_test", "2_3", "...", "développement", "n02917067", "1", "a", "latest", "protest", "prueba de vino",
           "测试员"]  # fmt: skip


def read(root, layout="splits"):
    splits = image_folder(str(root), 4, 3, "raise", in_memory=True, workers=0, layout=layout)
    return splits, [0 if part is None else len(part) for part in (splits.train, splits.val, splits.test)]


def test_names_of_splits_in_any_spelling():
    for split, names in SPELLED.items():
        assert {name: split_named(name) for name in names.split()} == dict.fromkeys(names.split(), split)
    assert splits_among(CLASSES) == {}
    assert {name: split_named(name) for name in CLASSES} == dict.fromkeys(CLASSES)


@pytest.mark.parametrize(("names", "sizes"), [
    (("Training", "Testing"), [4, 0, 2]),
    (("train", "valid", "test"), [4, 2, 2]),
    (("seg_train/seg_train", "seg_test/seg_test"), [4, 0, 2]),  # as archives unpack
    (("train2017", "VALIDATION"), [4, 2, 0]),
    (("birds_train", "birds_test"), [4, 0, 2]),
    (("trn-10%", "tst-10%"), [4, 0, 2]),
    (("训练集", "测试集"), [4, 0, 2]),
])  # fmt: skip
def test_splits_are_taken_in_any_spelling(tmp_path, capsys, names, sizes):
    make_folder(tmp_path, [f"{names[0]}/a", f"{names[0]}/b"], 2)
    make_folder(tmp_path, [f"{name}/a" for name in names[1:]], 2)
    splits, found = read(tmp_path)
    assert (found, splits.classes) == (sizes, ["a", "b"])
    assert splits.train.names[0] == f"{names[0]}/a/000.png"
    line = capsys.readouterr().out
    assert all(f"{name} is the " in line for name in names)


REFUSED = {  # folders -> what the error says
    "Bus Car Train": "data.root=DIR has Train, Bus, Car: put the classes into train",
    "Testing/a other/a": "put the classes into train",
    "train/a training/a": "train and training look like the train split",
    "trainA trainB testA": "trainA and trainB look like the train split",
    "fold1/a fold2/a": "fold1 and fold2 look like",
    "birds_train/a birds_test/a birds_val2/a other/a": "put the classes into train",
    "archive/train/a archive/test/a": "point data.root at DIR/archive",
    "cat/train cat/test dog/train dog/test": "which look like splits",
    "train/x/Train/a train/x/valid/a": "DIR/train/x has Train and valid, which look like splits",
    "development/a evaluation/a": "development and evaluation look like",
    "bounding_box_train bounding_box_test query": "put the classes into train",
    "images masks": "DIR has images and masks, which would be read as classes: .*data.root at DIR/images",
    "train/JPEGImages train/Ground_Truth test/JPEGImages": "DIR/train has JPEGImages and Ground_Truth",
    "train test/a": "train has no class folders, test has",
    "train val/a test/a": "train has no class folders, val and test has",
}


@pytest.mark.parametrize("folders", REFUSED)
def test_what_could_mix_the_splits_is_refused(tmp_path, folders):
    make_folder(tmp_path, folders.split(), 2)
    with pytest.raises(ValueError, match=REFUSED[folders].replace("DIR", str(tmp_path))):
        read(tmp_path)


def test_classes_may_have_names_of_splits_where_one_says_so(tmp_path, capsys):
    make_folder(tmp_path / "vehicles", ["Bus", "Train", "test"], 2)
    splits, sizes = read(tmp_path / "vehicles", "classes")
    assert (splits.classes, sizes) == (["Bus", "Train", "test"], [6, 0, 0])
    make_folder(tmp_path / "split", ["train/bus", "train/train", "test/train"], 2)
    splits, sizes = read(tmp_path / "split")  # inside a split they are classes
    assert (splits.classes, sizes) == (["bus", "train"], [4, 0, 2])
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"data\.layout must be splits, classes or imagenet"):
        read(tmp_path / "vehicles", "class")


def test_folders_of_images_alone_are_classes(tmp_path):
    make_folder(tmp_path, ["labels", "photos_1", "masks"], 2)
    assert read(tmp_path)[0].classes == ["labels", "masks", "photos_1"]
    make_folder(tmp_path, ["images"], 2)
    assert read(tmp_path, "classes")[0].classes == ["images", "labels", "masks", "photos_1"]


def test_images_that_a_link_would_give_twice_are_refused(tmp_path):
    """Else test images would be trained on, or one class be two."""
    make_folder(tmp_path, ["train/a", "train/b"], 2)
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(ValueError, match=r"(test/a and train/a|test/b and train/b) are one folder, by a link"):
        read(tmp_path)
    (tmp_path / "test").unlink()
    (tmp_path / "train/c").symlink_to("a")
    with pytest.raises(ValueError, match="train/a and train/c are one folder"):
        read(tmp_path)


def test_classes_that_look_like_one_are_named(tmp_path, capsys):
    make_folder(tmp_path, ["train/Cat", "train/caf\u00e9", "train/A", "train/a"], 2)
    make_folder(tmp_path, ["test/cat", "test/cafe\u0301", "test/a"], 2)
    assert len(read(tmp_path)[0].classes) == 6
    line = capsys.readouterr().out
    assert line.startswith(
        f"note     data.root={tmp_path}: 'caf\u00e9' and 'cafe\u0301' are two classes, as their names"
    )
    assert line.endswith("the spelling of accents (and 1 more like them); rename the folders if they are one\n")
