"""Contrastive losses.

The contract. A loss is a module (base.Loss), called as

    loss(z, labels=None, ids=None, local=slice(None), target=None, crops=None) -> scalar tensor
    loss.update(keys, labels, ids)       once after each training batch
    loss.statistics() -> dict            what to log
    loss.supervised -> bool              whether labels enter the loss
    loss.takes_crops -> bool             whether a call takes crops

z: (V, N, D), V >= 2 views of the N samples of all ranks, not normalised. labels, ids: (N,) or None. local: the slice of
the N samples whose anchors are this rank's. target: (V, N, D) embeddings of a momentum network, or of this one before
its predictor, to compare with in place of z; no gradient goes through them. crops: (L, N, D) embeddings of small crops,
which are anchors only: every view of the sample is their positive, and nothing is compared with them. A loss that is a
mean over anchors takes it over the local anchors, against all candidates; any other loss ignores `local` and returns
the whole. With a gather whose backward sums over ranks and DDP's average of gradients, both give the gradient of one
rank that holds all N samples; nobody multiplies by the number of ranks. Losses compute in float32 at least, with
autocast off.

A call changes nothing: what a loss remembers (a queue) or counts moves in update(), which gets what the batch compared
with, keys (V, N, D), and its labels and ids, the same on all ranks.

rowwise.py makes the rows; ratio.py, pairs.py, supcon.py, soft_targets.py, nnclr.py and align_uniform.py turn rows into
losses; moments.py and predictive.py have those without negatives.
"""
