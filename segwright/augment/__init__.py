"""Augmentation: one composed warp and one color step."""
