"""Evaluation on frozen features: plain functions, each also usable as a callback."""
