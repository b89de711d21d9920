"""The version of this package: what a bundle, a report and ``--version`` name."""

__version__ = "0.1.0"
