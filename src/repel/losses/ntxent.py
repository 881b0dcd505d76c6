"""NT-Xent."""

import torch.nn.functional as F
from torch import Tensor

from repel.losses.rowwise import RowwiseLoss


class NTXent(RowwiseLoss):
    """Cross-entropy of telling the other view of an image from all other embeddings of the batch.

        L = mean_i [ -l_ip + log( e^{l_ip} + Z_i ) ] = mean_i softplus( log Z_i - l_ip )

    Chen, Kornblith, Norouzi, Hinton 2020 (SimCLR), arXiv:2002.05709, eq. 1; Z_i sums over the 2N - 2 negatives of both
    views. Value: log(2N - 1) when all embeddings are equal. The authors' TensorFlow code returns the sum of the two
    views' means, which is twice this; the paper and most libraries take the mean, as here.
    """

    def link(self, x: Tensor) -> Tensor:
        return F.softplus(x)
