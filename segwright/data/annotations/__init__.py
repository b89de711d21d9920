"""Annotated objects as pixels: run lengths, polygons, rasterization."""
