"""``python -m segwright`` is ``segwright``; torchrun starts it this way."""

import os
import sys

# ``-m`` puts the current folder first on the module search path. It holds data: no module is taken from it, unless
# this package itself lies there (a checkout).
_here, _package = os.path.realpath(os.getcwd()), os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
if not sys.flags.safe_path and sys.path and os.path.realpath(sys.path[0]) == _here != _package:
    del sys.path[0]

from segwright.cli import main  # noqa: E402

main()
