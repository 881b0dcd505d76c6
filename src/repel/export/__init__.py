"""A trained encoder in use: features of a set, files for other programs, search."""
