"""Interactions of users with items: readers, views, encoders and baselines for recommendation."""
