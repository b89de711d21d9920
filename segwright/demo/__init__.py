"""The embedded demo dataset: generated street scenes."""
