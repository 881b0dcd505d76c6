"""Contrastive losses.

The contract. A loss is a module, called as

    loss(z, labels=None, ids=None, local=slice(None)) -> scalar tensor
    loss.supervised -> bool, whether labels enter the loss

z: (V, N, D), V >= 2 views of the N samples of all ranks, not normalised. labels, ids: (N,) or None. local: the slice of
the N samples whose anchors are this rank's. A loss that is a mean over anchors takes it over the local anchors, against
all candidates; any other loss ignores `local` and returns the whole. With a gather whose backward sums over ranks and
DDP's average of gradients, both give the gradient of one rank that holds all N samples; nobody multiplies by the number
of ranks. Losses compute in float32 at least, with autocast off.
"""
