"""Using a trained encoder: features of a set, files for other programs, search."""
