"""Projection heads: features h (B, F) -> embeddings z (B, D). The loss sees z, evaluation sees h."""

from torch import nn


def mlp(in_features: int, hidden: int | None, out_features: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: SimCLR's head (Chen et al. 2020, arXiv:2002.05709, sec. 2.1) with batch norm.

    Args:
        in_features: F.
        hidden: width of the hidden layer; None takes F.
        out_features: D.
    """
    hidden = in_features if hidden is None else hidden
    check_size(hidden=hidden, out_features=out_features)
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=False),  # the norm that follows has a bias
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out_features),
    )


def linear(in_features: int, out_features: int) -> nn.Linear:
    """One linear layer."""
    check_size(out_features=out_features)
    return nn.Linear(in_features, out_features)


def identity(in_features: int, out_features: int) -> nn.Identity:
    """No head: the loss sees the features themselves.

    Raises:
        ValueError: out_features is another number than the encoder's.
    """
    if in_features != out_features:
        raise ValueError(f"head=identity needs head.out_features={in_features}, the encoder's, got {out_features}")
    return nn.Identity()


def check_size(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"head.{name} must be at least 1, got {size}")
