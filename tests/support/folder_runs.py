"""Training on folders of small images."""

from conftest import TINY

QUICK = [*TINY, "trainer.limit_train_batches=1.0", "callbacks.progress=null", "callbacks.knn=null",
         "logger.tensorboard=null", "data.image_size=8", "trainer.max_epochs=1",
         "data.val_fraction=0.1", "data.split_by=place"]  # fmt: skip
