"""The browser of the tests of pages."""

from pages.conftest import browser

__all__ = ["browser"]
