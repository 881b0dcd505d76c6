"""Texts: encoders."""
