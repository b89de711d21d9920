"""Names that were renamed: the old one works for one release, and a DeprecationWarning says what it is called now."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_attribute(old: str, new: str) -> Any:
    """A property of the old name that returns the attribute ``new``.

    >>> class Palette:
    ...     colors = (1, 2)
    ...     colours = renamed_attribute("colours", "colors")
    >>> Palette().colours  # doctest: +SKIP
    (1, 2)
    """

    def get(self: Any) -> Any:
        warn_renamed(old, new)
        return getattr(self, new)

    return property(get, doc=f"The former name of ``{new}``.")


def renamed_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that finds old names (key) under their new ones (value).

    >>> __getattr__ = renamed_names(__name__, {"inspect_path": "check_path"})  # doctest: +SKIP
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return get


def renamed_parameters(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take parameters by their former names: ``renamed_parameters(former="current")``.

    TypeError if a call gives a parameter by both names.

    >>> @renamed_parameters(colour="color")
    ... def paint(*, color): return color
    >>> paint(color="red")
    'red'
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for former, current in names.items():
                if former in kwargs:
                    warn_renamed(f"{function.__name__}({former}=…)", f"{current}=…")
                    if current in kwargs:
                        raise TypeError(
                            f"{function.__name__}() got {former!r}, the former name of {current!r}, and both"
                        )
                    kwargs[current] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate


def warn_renamed(old: str, new: str) -> None:
    """Issue the warning, as from the caller's caller."""
    warnings.warn(f"{old} is now {new}; the old name works until the next release", DeprecationWarning, stacklevel=3)
