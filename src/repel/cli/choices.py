"""Choices of groups by the names that other programs have for them, and what to type here."""

import re

from repel.cli.habits import STOP_EARLY
from repel.cli.methods import METHODS_IN, instead_of_method, plain

__all__ = ["instead_of_choice"]

_OWN_IMAGES = "data=image_folder data.root=DIR for images of your own"
_IMAGENET = "data=imagenet data.root=DIR, for any folder with ImageNet's layout"
_DDP = "trainer=ddp trainer.devices=N: several devices train by DDP"
_GRAPH = "experiment=lightgcn, whose encoder=lightgcn passes vectors along the training pairs"
_HF = "encoder=hf encoder.name=FOLDER data.tokenizer=FOLDER"
_KEPT = "callbacks=default, which has callbacks.last and callbacks.best"
TABLE = {  # group -> (names, what to type)
    "callbacks": (
        (("early stopping", "early stop", "patience"), STOP_EARLY),
        (("model checkpoint", "checkpoint", "checkpointing", "lr monitor", "rich progress bar"), _KEPT),
        (("no", "off", "false", "empty", "minimal"), "callbacks=none"),
        (("ranking", "interactions"), "callbacks=recommendation"),
    ),
    "data": (
        (("mnist", "svhn", "celeba", "custom", "own", "my data", "dataset", "cub", "food101"), _OWN_IMAGES),
        (("tiny imagenet", "imagenet100", "imagenette", "imagenet1k", "imagenet21k", "ilsvrc2012"), _IMAGENET),
        (("csv", "tsv", "own texts", "sentences"), "experiment=text data=text_csv data.root=FILE data.text=COLUMN"),
        (("movielens", "ml 100k", "ml 1m", "ml 10m", "ml 20m", "ml 25m", "ml 32m", "ml latest", "ml latest small",
          "ratings", "interactions", "log", "implicit", "steam", "recsys", "recommendation", "amazon", "amazon reviews",
          "netflix", "lastfm", "lastfm 360k", "yelp", "book crossing", "goodreads", "mind", "pinterest", "citeulike",
          "epinions", "ciao", "douban", "taobao", "tmall", "retailrocket", "purchases", "clicks", "events", "recbole"),
         "experiment=recommendation data=interactions_csv data.root=FILE data.user=COLUMN data.item=COLUMN"),
        (("gowalla", "yelp2018", "amazon book", "lightgcn"),
         "experiment=recommendation data=interactions_lightgcn data.root=FOLDER"),
        (("txt", "text", "text folder", "lines"), "experiment=text data=text_lines data.root=FILE_OR_FOLDER"),
        (("pairs", "triplets", "nli", "snli", "allnli"),
         "experiment=mnrl data.root=FILE data.text=COLUMN data.positive=COLUMN"),
        (("json", "jsonl", "parquet", "huggingface", "imdb", "sst2", "ag news", "trec", "wikipedia", "c4"),
         "experiment=text data=text_hf data.root=FOLDER for texts that are on disk"),
        (("webdataset", "litdata", "wds", "shards", "streaming"), "data=stream data.root=SHARDS"),
    ),
    "encoder": (
        (("simple cnn", "cnn", "convnet", "resnet", "default", "tiny"), "encoder=small or encoder=resnet18"),
        (("bow", "bag of words", "word2vec", "glove", "mean"), "encoder=bag"),
        (("fasttext", "subwords", "ngrams"), "encoder=bag_of_ngrams"),
        (("lstm", "gru", "rnn"), "encoder=transformer"),
        (("mf", "bpr", "matrix factorization", "embedding", "embeddings", "embedding table", "lookup", "ids"),
         "experiment=recommendation, whose encoder=table has a vector for each user and item"),
        (("gcn", "gnn", "graph", "graph convolution", "lgn", "lgcn", "ngcf", "sgl", "simgcl"), _GRAPH),
        (("dssm", "towers", "two towers", "dual tower", "dual encoder", "mlp", "ncf", "neumf"),
         "experiment=two_tower, whose encoder=two_tower has a network for users and one for items"),
        (("huggingface", "transformers", "sentence transformer", "sentence transformers", "auto model"), _HF),
    ),
    "experiment": (
        (("ease", "itemknn", "popular", "most popular", "toppop"),
         "experiment=recommendation: popular items, item-kNN and EASE are rows of its table"),
    ),
    "head": (
        (("projection", "projection head", "projector", "mlp2", "nonlinear", "default"), "head=mlp"),
        (("none", "no", "off", "dot", "inner product", "cosine"), "head=identity"),
    ),
    "logger": (
        (("tb", "tensor board"), "logger=tensorboard"),
        (("wb", "weights and biases"), "'logger=[default,wandb]'"),
        (("no", "off", "false", "empty"), "logger=none"),
        (("many loggers", "all"), "'logger=[default,wandb,mlflow]'"),
        (("neptune", "comet"), "'+logger.NAME={_target_:lightning.pytorch.loggers.CLASS,...}'"),
    ),
    "evaluators": (
        (("sts b", "spearman", "embedding similarity", "embedding similarity evaluator"),
         "'evaluators=[sts]' evaluators.sts.root=FILE"),
        (("information retrieval", "information retrieval evaluator", "map"), "'evaluators=[retrieval]'"),
        (("recall",), "'evaluators=[ranking]' for users and items, 'evaluators=[retrieval]' for images and texts"),
        (("ndcg", "ndcg 10", "ndcg 20", "recall 10", "recall 20", "recall 50", "hit", "hit rate", "hr", "precision",
          "mrr", "auc", "top k", "recommendation", "coverage"), "'evaluators=[ranking]' for users and items"),
    ),
    "loss": (
        (("matryoshka", "matryoshka loss", "mrl"), "'loss.dims=[128,64,32]' beside the loss of your choice"),
        (("bce", "binary cross entropy", "pointwise", "logistic"), "loss=siglip, a sigmoid for each pair"),
        (("hinge", "max margin"), "loss=triplet"),
        (("sum", "weighted sum", "multi", "multi task", "combined"), "loss=joint"),
    ),
    "negatives": (
        (("mined", "bm25", "explicit"), "data.negative=COLUMN, which scripts/mine_negatives.py writes"),
        (("sampled", "negative sampling", "uniform sampling", "random items"),
         "views.negatives=N, which draws N items for each pair, or negatives=random, some of the batch's"),
        (("all", "none", "no", "off", "in-batch", "default"), "negatives=uniform"),
    ),
    "optimizer": (
        (("momentum", "nesterov", "sgd momentum"), "optimizer=sgd"),
        (("adam w", "default"), "optimizer=adamw"),
        (("larc", "lars sgd", "sgd lars"), "optimizer=lars"),
    ),
    "schedule": (
        (("warmup cosine", "cosine warmup", "linear warmup cosine", "cosine annealing", "cosine annealing lr",
          "cosine decay", "warmup"), "schedule=cosine"),
        (("linear", "linear decay", "polynomial"), "schedule=cosine, which comes down to 0 as well"),
        (("none", "no", "off", "fixed", "flat", "linear warmup", "constant lr"), "schedule=constant"),
    ),
    "target": ((("momentum", "momentum encoder", "teacher", "moving average", "moco", "byol"), "target=ema"),),
    "trainer": (
        (("mps", "apple"), "trainer=cpu: Apple's GPU is not supported"),
        (("cuda", "single gpu", "rocm"), "trainer=gpu"),
        (("ddp sim", "ddp spawn", "ddp cpu", "multi gpu", "ddp notebook", "dp"), _DDP),
        (("fsdp", "deepspeed"), _DDP),
        (("debugging", "fast dev run", "test"), "trainer=debug"),
    ),
    "views": (
        (("none", "no", "identity", "off"), "views=plain"),
        (("eda", "word dropout", "random deletion", "deletion", "cutoff", "token cutoff"), "views=delete"),
        (("span", "spans", "cropping", "random crop", "ict", "contriever"), "views=crop"),
        (("simcse", "noise", "same"), "views=dropout"),
        (("positive", "positives"), "views=pair"),
        (("pairs",), "views=pair for texts, views=user_item for users and items"),
        (("interactions", "recommendation", "bpr", "user", "item", "negatives"), "views=user_item"),
        (("two tower", "two towers", "tower"), "views=towers"),
        (("edge dropout", "node dropout", "graph", "lightgcn", "simgcl"), "experiment=sgl, which has views=sgl"),
        (("consert", "reorder", "permute"), "views=shuffle"),
        (("mlm", "masking"), "views=mask"),
        (("swav", "dino"), "views=multi_crop"),
        (("barlow", "barlow twins", "vicreg"), "views=byol"),
        (("default", "color"), "views=simclr, or views=simclr_no_blur for small images"),
        (("simsiam", "moco", "nnclr"), "views=moco_v2"),
        (("ressl", "sce", "weak"), "views=weak_target"),
    ),
}  # fmt: skip
TORCH_OPTIMIZERS = ("Adadelta", "Adafactor", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop")
RESNETS = r"(resnet|resnext|wide_?resnet)\d\w*"
VIT = r"vit(ti|tiny|t|s|small|b|base|l|large)(?:patch)?(8|14|16|32)"  # vit_b_16, vit-small-patch16
OF_HF = r"(.+/)?[\w.-]*(bert|minilm|mpnet|electra|bge|gte|e5)([-_].*)?"
OF_TIMM = r"(vit|deit|beit|swin|convnext|efficientnet|mobilenet|densenet|vgg|regnet|maxvit|mixer|dinov2|eva|xcit)\w*"


def instead_of_choice(group: str, choice: str, options: list[str]) -> str:
    """'; ' and what to type for a choice of another name; empty where no table has it.

    Args:
        options: the group's choices.
    """
    name = plain(choice)
    if same := [option for option in options if plain(option) == name]:
        return f"; did you mean {same[0]}?"
    if group in METHODS_IN and (method := instead_of_method(choice)):
        return method
    for names, typed in TABLE.get(group, ()):
        if name in map(plain, names):
            return f"; type {typed}"
    if group == "optimizer" and (found := [known for known in TORCH_OPTIMIZERS if plain(known) == name]):
        return f"; type optimizer=adam optimizer._target_=torch.optim.{found[0]}"
    if (group == "encoder" and re.fullmatch(OF_HF, choice, re.IGNORECASE)) or group.startswith("encoder/"):
        return f"; type {_HF}: transformers' models"
    if group == "encoder" and re.fullmatch(RESNETS, choice, re.IGNORECASE):
        return f"; type encoder=resnet18 encoder.name={choice.lower()}"
    if group == "encoder" and (vit := re.fullmatch(VIT, name)):
        size = next(whole for whole in ("tiny", "small", "base", "large") if whole.startswith(vit[1]))
        return f"; type encoder=timm encoder.name=vit_{size}_patch{vit[2]}_224"
    if group == "encoder" and re.fullmatch(OF_TIMM, choice, re.IGNORECASE):
        return f"; type encoder=timm encoder.name={choice.lower()}"
    return ""
