"""Views: batched augmentations made on the device, two or more of each image."""

from repel.data.views import Viewed, slice_params
from repel.images.views.augment import Augment
from repel.images.views.normalize import Normalize
from repel.images.views.views import Views

__all__ = ["Augment", "Normalize", "Viewed", "Views", "slice_params"]
