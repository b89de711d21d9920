"""The labeling loop: which regions of which images to ask about, the answers, and the better model."""
