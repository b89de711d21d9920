"""Augmentation: one composed warp and one colour step."""
