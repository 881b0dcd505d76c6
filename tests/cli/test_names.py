"""Names that people type from other programs: each gets the one that it has here, or what to do instead."""

import re
import sys

import pytest
from conftest import CONF, config, options, thinned

from repel.cli.choices import TABLE as CHOICES
from repel.cli.methods import ABSENT, METHODS, METHODS_IN, find_method, methods_table, plain
from repel.cli.names import check_names
from repel.cli.option_names import NAMES

NAMES_OF_METHODS = {  # what is typed -> what it is
    "simclr": "experiment=simclr", "SimCLR": "experiment=simclr", "simclr_v2": "experiment=simclr",
    "nt_xent": "loss=ntxent", "NT-Xent": "loss=ntxent", "NTXentLoss": "loss=ntxent", "nt-xent-loss": "loss=ntxent",
    "InfoNCE": "loss=infonce", "info_nce": "loss=infonce", "InfoNCELoss": "loss=infonce", "n_pairs": "loss=infonce",
    "clip": "loss=infonce", "ClipLoss": "loss=infonce", "SigLipLoss": "experiment=siglip",
    "mocov2": "experiment=moco", "MoCo-v2+": "experiment=moco", "moco_v1": "experiment=moco",
    "moco_v3": "loss=infonce target=ema predictor=mlp", "mocov3": "loss=infonce target=ema predictor=mlp",
    "debiased": "experiment=debiased", "DCL": "loss=decoupled or experiment=debiased",
    "hn-ntxent": "experiment=hcl", "hard_contrastive_loss": "experiment=hcl", "HCL": "experiment=hcl",
    "hard_negatives": "experiment=hcl or negatives=hardest or negatives=topk",
    "mochi": "experiment=moco negatives=mixed", "dclw": "loss=decoupled_weighted",
    "supcon": "experiment=supcon", "SupConLoss": "experiment=supcon", "supervised_contrastive": "experiment=supcon",
    "byol": "experiment=byol", "simsiam": "experiment=simsiam", "BarlowTwins": "experiment=barlow",
    "barlow-twins": "experiment=barlow", "barlow_twins_loss": "experiment=barlow", "VICRegLoss": "experiment=vicreg",
    "ContrastiveLoss": "loss=margin_cosine", "TripletMarginLoss": "loss=triplet",
    "batch_hard": "loss=triplet negatives=hardest", "MultiSimilarityLoss": "loss=multi_similarity",
    "alignment_uniformity": "loss=align_uniform", "nnclr": "experiment=nnclr", "swav": "experiment=swav",
    "RecSys": "experiment=recommendation", "recommender": "experiment=recommendation",
    "mf": "experiment=recommendation", "BPRLoss": "experiment=bpr", "bprmf": "experiment=bpr",
    "light_gcn": "experiment=lightgcn", "SGL-ND": "experiment=sgl encoder.augment=nodes",
    "cosine_contrastive_loss": "experiment=simplex", "dns": "experiment=dns", "DSSM": "experiment=two_tower",
    "logQ-correction": "negatives=popularity", "sampled_softmax_loss": "experiment=ssm",
}  # fmt: skip

TYPED = {  # (command, what is typed) -> what the line must hold
    ("train", "loss=simclr"): ["for SimCLR type experiment=simclr"],
    ("train", "loss=NT-Xent"): ["did you mean ntxent?"],
    ("train", "experiment=infonce"): ["for InfoNCE type loss=infonce"],
    ("train", "negatives=mochi"): ["type experiment=moco negatives=mixed"],
    ("train", "loss=dino"): ["DINO is not part of this project"],
    ("train", "loss=ntxnt"): ["did you mean ntxent?"],
    ("train", "method=simclr"): ["for SimCLR type experiment=simclr"],
    ("train", "method=x"): ["--methods lists methods"],
    ("train", "model=resnet18"): ["type encoder=resnet18"],
    ("train", "backbone=ResNet18"): ["type encoder=resnet18"],
    ("train", "encoder=resnet34"): ["type encoder=resnet18 encoder.name=resnet34"],
    ("train", "encoder=vit_b_16"): ["type encoder=timm encoder.name=vit_base_patch16_224"],
    ("train", "encoder=convnext_tiny"): ["type encoder=timm encoder.name=convnext_tiny"],
    ("train", "optimizer=AdamW"): ["did you mean adamw?"],
    ("train", "optimizer=rmsprop"): ["optimizer._target_=torch.optim.RMSprop"],
    ("train", "data=CIFAR-10"): ["did you mean cifar10?"],
    ("train", "dataset=cifar10"): ["type data=cifar10"],
    ("train", "dataset=x"): ["type data=NAME"],
    ("train", "datasets=cifar10"): ["type data=cifar10"],
    ("train", "trainer.profile=simple"): ["did you mean trainer.profiler?"],
    ("train", "profiler=simple"): ["did you mean trainer.profiler?"],
    ("train", "dataset.name=cifar10"): ["type data=cifar10"],
    ("train", "data.num_workers=4"): ["type data.workers=N", "data=hf, image_folder, imagenet or stream"],
    ("train", "data=image_folder data.num_workers=4"): ["type data.workers=N"],
    ("train", "data.root=x"): ["the chosen data has no root", "image_folder"],
    ("train", "dataset.root=x"): ["type data.root=DIR", "image_folder"],
    ("train", "paths.data_dir=x"): ["data.root=DIR"],
    ("train", "loss.margin=0.1"): ["the chosen loss has no margin; these have: cosine_regression, triplet"],
    ("train", "negatives.beta=2"): ["these have: hcl, tilt"],
    ("train", "optimizer.momentum=0.9"): ["these have: lars, sgd"],
    ("train", "target.momentum=0.99"): ["these have: ema"],
    ("train", "target.tau=0.99"): ["type target=ema target.momentum=X"],
    ("train", "scheduler=cosine"): ["type schedule=cosine"],
    ("train", "transforms=simclr"): ["type views=simclr"],
    ("train", "trainer=mps"): ["type trainer=cpu"],
    ("train", "trainer=ddp_spawn"): ["trainer=ddp trainer.devices=N"],
    ("train", "logger=tb"): ["type logger=tensorboard"],
    ("train", "callbacks=early_stopping"): ["lightning.pytorch.callbacks.EarlyStopping"],
    ("train", "callbacks.early_stopping.patience=3"): ["lightning.pytorch.callbacks.EarlyStopping"],
    ("train", "debug=default"): ["experiment=debug"],
    ("train", "-m seed=1,2 loss=ntxent,hcl"): ["for HCL type experiment=hcl"],  # before Hydra makes a sweep's folder
    ("train", "pin_memory=true"): ["there is nothing to set"],
    ("train", "projection_dim=64"): ["type head.out_features=N"],
    ("train", "max_seq_length=128"): ["type data.max_tokens=N", "text_csv"],
    ("train", "num_train_epochs=3"): ["type trainer.max_epochs=N"],
    ("train", "warmup_ratio=0.1"): ["type schedule.warmup_epochs=N, in epochs"],
    ("train", "model_name_or_path=bert"): ["type encoder=hf encoder.name=FOLDER"],
    ("train", "encoder=sentence-transformers/all-MiniLM-L6-v2"): ["type encoder=hf encoder.name=FOLDER"],
    ("train", "encoder=distilbert-base-uncased"): ["type encoder=hf encoder.name=FOLDER"],
    ("train", "experiment=text pooling=cls"): ["encoder.pooling=mean, cls or last"],
    ("train", "loss=MultipleNegativesRankingLoss"): ["type experiment=mnrl"],
    ("train", "loss=SimCSE"): ["type experiment=simcse"],
    ("train", "experiment=sup_simcse"): ["type experiment=simcse_sup"],
    ("train", "loss=BatchHardTripletLoss"): ["type loss=triplet negatives=hardest"],
    ("train", "loss=MatryoshkaLoss"): ["type 'loss.dims=[128,64,32]'"],
    ("train", "loss=CoSENTLoss"): ["CoSENT is not part of this project"],
    ("train", "loss.scale=20"): ["type loss.temperature=X, which is 1 / scale"],
    ("train", "experiment=text data=text_csv data.column=a"): ["type data.text=COLUMN"],
    ("train", "experiment=text data=text_csv data.label_column=a"): ["data.label=COLUMN"],
    ("train", "experiment=text data.root=a.csv"): ["data=text_csv data.root=FILE"],
    ("train", "data=reviews.csv"): ["data=text_csv data.root=reviews.csv"],
    ("train", "data=ml-1m"): ["experiment=recommendation data=interactions_csv data.root=FILE"],
    ("train", "loss=bpr"): ["for BPR type experiment=bpr"],
    ("train", "experiment=ncf"): ["NCF is not part of this project"],
    ("train", "experiment=ease"): ["EASE are rows of its table"],
    ("train", "encoder=gcn"): ["encoder=lightgcn"],
    ("train", "head=dot"): ["type head=identity"],
    ("train", "evaluators=recall"): ["'evaluators=[ranking]' for users and items"],
    ("train", "evaluators=ndcg@20"): ["'evaluators=[ranking]' for users and items"],
    ("train", "experiment=recommendation topk=20"): ["evaluators.ranking.ks=[10,20]"],
    ("train", "experiment=ssm n_layers=3"): ["type encoder.layers=N, an option of encoder=lightgcn"],
    ("train", "experiment=lightgcn n_layers=3"): ["type encoder.layers=N"],
    ("train", "experiment=recommendation embedding_dim=8"): ["for users and items encoder.width=N"],
    ("train", "experiment=recommendation data.user_col=u"): ["type data.user=COLUMN"],
    ("train", "experiment=recommendation USER_ID_FIELD=u"): ["type data.user=COLUMN"],
    ("train", "experiment=recommendation data.k_core=5"): ["type 'data.core=[5,5]'"],
    ("evaluate", "ckpt=x dataset=cifar10"): ["type data=cifar10"],
    ("evaluate", "ckpt=x loss.temperature=1"): ["it is the run's own"],
    ("evaluate", "ckpt=x schedule=cosin"): ["it is the run's own"],
}  # fmt: skip


@pytest.mark.parametrize(("command", "typed"), [pytest.param(*key, id=" ".join(key)) for key in TYPED])
def test_a_name_of_another_program_gets_the_one_here(command, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *typed.split()])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_names(command, typed.split())
    assert all(words in str(caught.value) for words in TYPED[command, typed]), str(caught.value)


@pytest.mark.parametrize("typed", ["loss.margin=1", "loss_fn=simclr", "method=simclr", "scheduler=cosine", "lr=0.1"])
def test_a_command_is_told_of_no_option_that_it_has_not(typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "ckpt=x", typed])
    with pytest.raises(ValueError, match=r"unknown option|no such") as caught:
        check_names("evaluate", ["ckpt=x", typed])
    assert not re.search(r"(loss|optimizer|schedule)[=.]\w+( has|=)|type (loss|experiment)", str(caught.value))


@pytest.mark.parametrize("typed", NAMES_OF_METHODS)
def test_a_methods_name_is_known_in_any_spelling(typed):
    assert find_method(typed).typed == NAMES_OF_METHODS[typed]


def test_no_name_stands_for_two_things():
    names = [plain(name) for row in METHODS for name in (row.name, *row.others)] + [plain(name) for name in ABSENT]
    assert len(names) == len(set(names))
    for rows in CHOICES.values():
        names = [plain(name) for row, _ in rows for name in row]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("row", thinned([row.name for row in METHODS], 9))
def test_what_the_table_says_can_be_typed(row):
    """Composed and built; and the source is that of the choice."""
    from repel.engine.build import build_module

    found = next(method for method in METHODS if method.name == row)
    for typed in found.typed.split(" or "):
        build_module(config(*typed.split(), "encoder.width=4", "++head.out_features=4", "++data.root=x"))
        choices = (option.split("=") for option in typed.split())
        files = [CONF / f"{group}/{choice}.yaml" for group, choice in choices if "." not in group]
        headers = "".join(file.read_text(encoding="utf-8") for file in files)
        if len(typed.split()) == 1 and (paper := re.search(r"arXiv:[\d.]+\d", found.source)):
            assert paper[0] in headers


def test_tables_name_what_there_is():
    """The options and choices that the tables tell one to type."""
    choices = {f"{file.parent.name}={file.stem}" for file in CONF.glob("*/*.yaml")}
    told = [typed for rows in CHOICES.values() for _, typed in rows] + sorted(set(NAMES.values()))
    for typed in told:
        for group, name in re.findall(r"(?<![\w.'+])(\w+)=([a-z]\w*)\b(?!\.)", typed):
            assert f"{group}={name}" in choices, typed


def test_the_list_of_methods_has_every_choice():
    groups = {group: options(group) for group in METHODS_IN}
    table = methods_table(groups)
    for group, names in groups.items():
        (others,) = re.findall(rf"^other {group}=  (.*)$", table, re.MULTILINE)
        for name in names:
            assert re.search(rf"\b{group}={name}\b", table) or name in others.split(", ")
    assert "other" not in methods_table({"loss": ["ntxent"]})
