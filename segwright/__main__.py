"""``python -m segwright`` is ``segwright``; torchrun starts it this way."""

from segwright.cli import main

main()
