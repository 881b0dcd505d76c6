"""Every negative weighs the same."""

from torch import Tensor, nn

from repel.negatives.rows import Rows


class Uniform(nn.Module):
    """w = 0: plain InfoNCE and NT-Xent, where only the softmax itself favours similar negatives."""

    def weights(self, rows: Rows) -> Tensor:
        return rows.logits.new_zeros(())

    def correct(self, log_z: Tensor, rows: Rows) -> Tensor:
        return log_z
