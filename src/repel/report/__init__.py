"""The table, page, figures and files of an evaluation."""
