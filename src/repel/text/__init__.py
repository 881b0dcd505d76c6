"""Texts: readers, tokenizer, batched views, encoders, figures."""
