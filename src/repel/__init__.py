"""repel: contrastive representation learning, run by PyTorch Lightning and configured by Hydra."""

__version__ = "0.1.0"
