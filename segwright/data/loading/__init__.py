"""Batches from a split: the loader, its cache, and sampling."""
