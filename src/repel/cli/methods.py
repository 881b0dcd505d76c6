"""Methods by the names people know, and what to type for each: one table, for suggestions and for --methods."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["METHODS", "METHODS_IN", "Method", "find_method", "instead_of_method", "methods_table", "plain"]


class Method(NamedTuple):
    """A row of the table.

    name: as its authors write it.
    typed: what to type; several ways stand between " or ".
    source: authors, year, arXiv id.
    others: further names, in any spelling.
    """

    name: str
    typed: str
    source: str
    others: tuple[str, ...] = ()


METHODS = (
    Method("SimCLR", "experiment=simclr", "Chen et al. 2020, arXiv:2002.05709"),
    Method("NT-Xent", "loss=ntxent", "Chen et al. 2020, arXiv:2002.05709",
           ("normalized temperature-scaled cross entropy", "x-ent", "softmax")),
    Method("InfoNCE", "loss=infonce", "van den Oord et al. 2018, arXiv:1807.03748",
           ("NCE", "CPC", "N-pair", "N-pairs", "MultiClassNPair", "contrastive predictive coding")),
    Method("CLIP", "loss=infonce", "Radford et al. 2021, arXiv:2103.00020", ("OpenCLIP", "ALIGN", "LiT")),
    Method("SigLIP", "experiment=siglip", "Zhai et al. 2023, arXiv:2303.15343", ("sigmoid",)),
    Method("MoCo", "experiment=moco", "He et al. 2020, arXiv:1911.05722; v2: arXiv:2003.04297",
           ("momentum contrast", "queue", "memory bank", "XBM")),
    Method("MoCo v3", "loss=infonce target=ema predictor=mlp", "Chen et al. 2021, arXiv:2104.02057"),
    Method("NNCLR", "experiment=nnclr", "Dwibedi et al. 2021, arXiv:2104.14548", ("nearest neighbor",)),
    Method("SupCon", "experiment=supcon", "Khosla et al. 2020, arXiv:2004.11362",
           ("SupContrast", "supervised contrastive", "supervised contrastive learning", "supervised", "SCL")),
    Method("Debiased", "experiment=debiased", "Chuang et al. 2020, arXiv:2007.00224",
           ("debias", "debiased contrastive", "debiased contrastive learning")),
    Method("Decoupled", "loss=decoupled", "Yeh et al. 2022, arXiv:2110.06848",
           ("decoupled contrastive", "decoupled contrastive learning")),
    Method("DCL", "loss=decoupled or experiment=debiased", "two methods: Yeh et al. 2022, Chuang et al. 2020"),
    Method("DCLW", "loss=decoupled_weighted", "Yeh et al. 2022, arXiv:2110.06848"),
    Method("HCL", "experiment=hcl", "Robinson et al. 2021, arXiv:2010.04592",
           ("HN-NTXent", "H-NTXent", "HN-Xent", "hard negative NTXent", "hard negative sampling", "hard contrastive",
            "beta", "reweighted", "importance sampling")),
    Method("Hard negatives", "experiment=hcl or negatives=hardest or negatives=topk", "docs/losses.md compares them",
           ("hard", "hard negative", "hard mining", "hard negative mining", "mining", "miner", "OHEM")),
    Method("Soft negatives", "experiment=soft or negatives=tilt", "docs/losses.md compares them",
           ("soft", "soft negative")),
    Method("MoCHi", "experiment=moco negatives=mixed", "Kalantidis et al. 2020, arXiv:2010.01028",
           ("mixing", "mixed negatives", "hard negative mixing", "synthetic", "synthetic negatives")),
    Method("Ring", "negatives=annulus", "Wu et al. 2021, arXiv:2010.02037", ("CNCE", "conditional negative sampling")),
    Method("False negative cancellation", "negatives=false_negatives", "Huynh et al. 2022, arXiv:2011.11765",
           ("FNC", "IFND", "false negative", "false negative elimination")),
    Method("GIST", "experiment=gist", "Solatorio 2024, arXiv:2402.16829", ("GISTEmbed", "Cached GISTEmbed", "guided")),
    Method("Hardness weighting", "negatives=tilt negatives.norm=none negatives.detach=true",
           "Lan et al. 2025, arXiv:2503.04812", ("hardness", "hardness-weighted", "LLaVE")),
    Method("Multiple negatives ranking", "experiment=mnrl", "Henderson et al. 2017, arXiv:1705.00652",
           ("MNR", "Cached multiple negatives ranking", "in-batch negatives")),
    Method("Multiple negatives symmetric ranking", "experiment=mnrl loss.symmetric=true",
           "Henderson et al. 2017, arXiv:1705.00652", ("Cached multiple negatives symmetric ranking",)),
    Method("SimCSE", "experiment=simcse", "Gao, Yao, Chen 2021, arXiv:2104.08821", ("unsup-SimCSE",)),
    Method("Supervised SimCSE", "experiment=simcse_sup", "Gao, Yao, Chen 2021, arXiv:2104.08821", ("sup-SimCSE",)),
    Method("ConSERT", "experiment=text views=shuffle", "Yan et al. 2021, arXiv:2105.11741"),
    Method("Triplet", "loss=triplet", "Schroff et al. 2015, arXiv:1503.03832",
           ("triplet margin", "triplet margin with distance", "FaceNet", "batch all triplet")),
    Method("Semi-hard", "loss=triplet negatives=semi_hard", "Schroff et al. 2015, arXiv:1503.03832",
           ("triplet semi-hard", "batch semi-hard triplet")),
    Method("Batch hard", "loss=triplet negatives=hardest", "Hermans et al. 2017, arXiv:1703.07737",
           ("triplet hard", "VSE++", "batch hard triplet")),
    Method("Batch hard, soft margin", "loss=triplet loss.link=soft negatives=hardest",
           "Hermans et al. 2017, arXiv:1703.07737", ("batch hard soft margin triplet",)),
    Method("Contrastive loss", "loss=margin_cosine", "Hadsell et al. 2006",
           ("contrastive", "margin", "pairwise", "siamese", "cosine embedding", "cosine")),
    Method("Multi-Similarity", "loss=multi_similarity", "Wang et al. 2019, arXiv:1904.06627", ("MS", "multi-sim")),
    Method("Alignment and uniformity", "loss=align_uniform", "Wang, Isola 2020, arXiv:2005.10242",
           ("alignment uniformity", "align and uniform", "uniformity", "align unif", "hypersphere")),
    Method("DHEL", "loss=dhel", "Koromilas et al. 2024, arXiv:2405.18045"),
    Method("MACL", "loss=macl", "Huang et al. 2023, arXiv:2207.07874", ("model-aware contrastive learning",)),
    Method("ReSSL", "experiment=ressl", "Zheng et al. 2021, arXiv:2107.09282", ("relational",)),
    Method("SCE", "experiment=sce", "Denize et al. 2023, arXiv:2111.14585", ("similarity contrastive estimation",)),
    Method("BYOL", "experiment=byol", "Grill et al. 2020, arXiv:2006.07733", ("bootstrap your own latent",)),
    Method("SimSiam", "experiment=simsiam", "Chen, He 2021, arXiv:2011.10566", ("negative cosine similarity",)),
    Method("Barlow Twins", "experiment=barlow", "Zbontar et al. 2021, arXiv:2103.03230"),
    Method("VICReg", "experiment=vicreg", "Bardes et al. 2022, arXiv:2105.04906"),
    Method("SwAV", "experiment=swav", "Caron et al. 2020, arXiv:2006.09882", ("sinkhorn", "prototypes")),
    Method("Recommendation", "experiment=recommendation", "users and items: docs/recommendation.md",
           ("recsys", "recommender", "recommenders", "recommender system", "recommender systems", "reco",
            "collaborative filtering", "CF", "implicit feedback", "implicit", "user item")),
    Method("Matrix factorization", "experiment=recommendation", "Koren et al. 2009, doi 10.1109/MC.2009.263",
           ("MF", "matrix factorisation")),
    Method("BPR", "experiment=bpr", "Rendle et al. 2009, arXiv:1205.2618",
           ("BPR-MF", "MF-BPR", "Bayesian personalized ranking")),
    Method("SSM", "experiment=ssm", "Wu et al. 2022, arXiv:2201.02327", ("sampled softmax", "BSM", "in-batch softmax")),
    Method("LightGCN", "experiment=lightgcn", "He et al. 2020, arXiv:2002.02126", ("LGN", "light graph convolution")),
    Method("SGL", "experiment=sgl", "Wu et al. 2021, arXiv:2010.10783", ("SGL-ED", "edge dropout")),
    Method("SGL, node dropout", "experiment=sgl encoder.augment=nodes", "Wu et al. 2021, arXiv:2010.10783",
           ("SGL-ND", "node dropout")),
    Method("SimGCL", "experiment=simgcl", "Yu et al. 2022, arXiv:2112.08679"),
    Method("XSimGCL", "experiment=xsimgcl", "Yu et al. 2023, arXiv:2209.02544"),
    Method("DirectAU", "experiment=directau", "Wang et al. 2022, arXiv:2206.12811", ("AU", "DAU")),
    Method("SimpleX", "experiment=simplex", "Mao et al. 2021, arXiv:2109.12613", ("CCL", "cosine contrastive")),
    Method("Dynamic negative sampling", "experiment=dns", "Zhang et al. 2013, doi 10.1145/2484028.2484126",
           ("DNS", "AOBPR")),
    Method("Two towers", "experiment=two_tower", "Yi et al. 2019, doi 10.1145/3298689.3346996",
           ("two tower", "dual tower", "DSSM", "YouTubeDNN", "sampling-bias-corrected")),
    Method("logQ", "negatives=popularity", "Yi et al. 2019, doi 10.1145/3298689.3346996",
           ("logQ correction", "popularity correction", "sampling bias correction", "debiased sampling", "pop")),
    Method("Known pairs left out", "negatives=known", "docs/losses.md",
           ("known positives", "positives", "observed", "seen", "mask positives", "history")),
)  # fmt: skip
METHODS_IN = ("experiment", "loss", "negatives")  # the groups that methods are choices of
ABSENT = (  # looked for here too
    "ArcFace", "AM-Softmax", "Circle", "CO2", "CosFace", "DeepCluster", "DenseCL", "DINO", "EsViT", "iBOT", "I-JEPA",
    "IFM", "InstDisc", "MAE", "MSN", "PCL", "PIRL", "Proxy-Anchor", "Proxy-NCA", "SimMIM", "TiCo", "VICRegL", "W-MSE",
    "AnglE", "CoSENT", "Contrastive Tension", "Cosine Similarity", "DeCLUTR", "Denoising Auto Encoder", "DiffCSE",
    "Distill KL Div", "Margin MSE", "Mega Batch Margin", "Online Contrastive", "PromptBERT", "SetFit", "TSDAE",
    "ALS", "BERT4Rec", "BUIR", "Caser", "CML", "DGCF", "DeepFM", "Factorization Machine", "GCMC", "GRU4Rec", "iALS",
    "Item2Vec", "LightGCL", "MixGCF", "MultiDAE", "MultiVAE", "Mult-DAE", "Mult-VAE", "NCF", "NCL", "NeuMF", "NGCF",
    "PinSage", "RecVAE", "SASRec", "SelfCF", "SLIM", "UltraGCN", "WMF", "WARP",
)  # fmt: skip


def plain(word: str) -> str:
    """A name without what its spellings differ in: case, hyphens, underscores, spaces.

    >>> plain("NT-Xent")
    'ntxent'
    """
    return re.sub(r"[\W_]", "", word.casefold())


def _spellings(word: str) -> Iterable[str]:
    """A name as it is; without `loss` at its end; without a version; without both."""
    name = plain(word)
    yield name
    for ending in (r"(loss|criterion|objective)$", r"(v\d+|plus)$", r"(v\d+)?(loss|criterion|objective)$"):
        yield re.sub(ending, "", name)


def find_method(word: str) -> Method | None:
    """The method of a name, in any spelling; the name of another version finds the one that there is."""
    rows: dict[str, Method] = {}
    for row in METHODS:
        for name in (row.name, *row.others, *_chosen(row)):
            rows.setdefault(plain(name), row)
    return next((rows[name] for name in _spellings(word) if name in rows), None)


def _chosen(row: Method) -> list[str]:
    """The choice that a row is, where it is one alone: barlow, of experiment=barlow."""
    return [] if " " in row.typed else [row.typed.partition("=")[2]]


def instead_of_method(word: str) -> str:
    """'; ' and what to type for a method's name; empty where it is none.

    >>> instead_of_method("nt_xent")
    '; for NT-Xent type loss=ntxent'
    """
    if row := find_method(word):
        return f"; for {row.name} type {row.typed}"
    absent = {plain(name): name for name in ABSENT}
    found = next((absent[name] for name in _spellings(word) if name in absent), None)
    return f"; {found} is not part of this project, --methods lists what is" if found else ""


def methods_table(choices: Mapping[str, Iterable[str]]) -> str:
    """What --methods prints: the table, then the choices that it does not name.

    Args:
        choices: of each group.
    """
    rows = [("method", "type", "source"), *((row.name, row.typed, row.source) for row in METHODS)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{name:<{first}}  {typed:<{second}}  {source}" for name, typed, source in rows]
    named = {typed for row in METHODS for typed in row.typed.split()}
    for group, names in choices.items():
        others = ", ".join(name for name in names if f"{group}={name}" not in named)
        lines += ["", f"other {group}=  {others}"] if others else []
    return "\n".join([*lines, "", "Type it behind train.py; loss= and negatives= combine: docs/losses.md"])
