"""What reading a safetensors file can raise, in one place."""

from __future__ import annotations

from safetensors import SafetensorError

# Torch maps the file a second time and reports a file that was replaced meanwhile as a RuntimeError of its own; the
# others come from headers that are damaged.
UNREADABLE = (
    OSError, SafetensorError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, MemoryError,
)  # fmt: skip
