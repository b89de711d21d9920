"""A saved model as an HTTP service. Needs the extra ``serve``: MissingExtraError at import without it."""

from __future__ import annotations

from segwright.serving.packages import require_packages

require_packages()
