"""The functions of :mod:`segwright.kernels.arcs_plain`, compiled. Importing this module imports numba."""

from __future__ import annotations

from segwright.kernels import arcs_plain
from segwright.kernels.jit import jit

trace = jit(arcs_plain.trace)
simplify = jit(arcs_plain.simplify)
