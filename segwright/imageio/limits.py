"""Limits per file: bytes, pixels, bands, pages, memory and seconds. Every reader takes them."""

from __future__ import annotations

from dataclasses import dataclass

BASE_MEMORY = 1 << 30  # of address space, besides what a process has when its libraries are loaded
BYTES_PER_PIXEL = 24  # an RGB image, its float copy and a scratch buffer of a decoder


@dataclass(frozen=True)
class Limits:
    """Limits on a file and on its decoded content."""

    max_pixels: int = 178_000_000  # Pillow refuses more than 178,956,970 by itself
    max_side: int = 65_500
    max_bytes: int = 2_000_000_000  # of the file, and of the pixels that come out, all bands and pages together
    max_bands: int = 512
    max_pages: int = 16_384  # directories of a TIFF, overviews included
    max_seconds: float = 120.0  # in a decoding process; the slowest honest files take ten
    max_memory: int | None = None  # bytes a decoding process may add to what it has at its start; None: by the pixels

    @property
    def memory(self) -> int:
        """Bytes that a decoding process may add to what it has at its start."""
        if self.max_memory is not None:
            return self.max_memory
        return BASE_MEMORY + BYTES_PER_PIXEL * self.max_pixels


DEFAULT_LIMITS = Limits()
