"""Encoders, and the pretrained weights they may start from."""
