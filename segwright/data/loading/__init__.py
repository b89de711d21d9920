"""From a split to batches: the loader, its cache, and sampling."""
