"""Contrastive losses.

    from repel.losses import NTXent
    from repel.negatives import HCL

    loss = NTXent(temperature=0.5, negatives=HCL(beta=1.0, tau_plus=0.1))
    loss(z)                              z: (V, N, D), V views of N samples

The contract. A loss is a module (`Loss`), called as

    loss(z, labels=None, ids=None, local=slice(None), target=None, crops=None, negatives=None, negative_ids=None,
         catalog=None, catalog_ids=None)
    loss.update(keys, labels, ids)       once after each training batch
    loss.statistics() -> dict            what to log
    loss.supervised -> bool              whether labels enter the loss
    loss.takes_crops -> bool             whether a call takes crops
    loss.takes_negatives -> bool         whether a call takes explicit negatives
    loss.takes_catalog -> bool           whether a call takes a catalog, and needs it

and returns a scalar; `Loss.forward` documents the arguments. A candidate that shows an entity of the anchor's own
sample (any of its V ids) is not a negative: in the batch, in the queue, for crops and among explicit negatives alike.

A loss that is a mean over anchors takes it over the `local` anchors, against all candidates; any other loss ignores
`local` and returns the whole. With a gather whose backward sums over ranks and DDP's average of gradients, both give
the gradient of one rank that holds all N samples; nobody multiplies by the number of ranks. Losses compute in float32
at least, with autocast off.

A call changes nothing: what a loss remembers (a queue) or counts moves in update(), which gets what the batch compared
with, keys (V, N, D), and its labels and ids, the same on all ranks.

`dims` makes any loss of unit vectors a Matryoshka loss: the sum of itself over the first dimensions of all embeddings.

From a batch to a value: base.py (the call), rowwise.py (anchors against candidates), ratio.py (InfoNCE and its kin).
pairs.py, supcon.py, soft_targets.py, nnclr.py and align_uniform.py make other losses of the same logits; moments.py and
predictive.py have those without negatives, joint.py weighted sums of losses.
"""

from repel.losses.align_uniform import AlignUniform
from repel.losses.base import Loss
from repel.losses.gradient_weights import NegativeWeights, negative_weights
from repel.losses.joint import Joint
from repel.losses.moments import BarlowTwins, VICReg
from repel.losses.nnclr import NNCLR
from repel.losses.pairs import CosineRegression, MarginCosine, MultiSimilarity, PairLoss, SigLIP, Triplet
from repel.losses.predictive import BYOL
from repel.losses.queue import Queue
from repel.losses.ratio import DHEL, MACL, Decoupled, DecoupledWeighted, InfoNCE, LogRatioLoss, NTXent
from repel.losses.rowwise import RowwiseLoss
from repel.losses.soft_targets import SCE, ReSSL, SwAV
from repel.losses.supcon import SupCon

__all__ = [
    "BYOL",
    "DHEL",
    "MACL",
    "NNCLR",
    "SCE",
    "AlignUniform",
    "BarlowTwins",
    "CosineRegression",
    "Decoupled",
    "DecoupledWeighted",
    "InfoNCE",
    "Joint",
    "LogRatioLoss",
    "Loss",
    "MarginCosine",
    "MultiSimilarity",
    "NTXent",
    "NegativeWeights",
    "PairLoss",
    "Queue",
    "ReSSL",
    "RowwiseLoss",
    "SigLIP",
    "SupCon",
    "SwAV",
    "Triplet",
    "VICReg",
    "negative_weights",
]
