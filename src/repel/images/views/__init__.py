"""Views: batched augmentations made on the device, two or more of each image."""
