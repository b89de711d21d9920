"""Reads the short texts that describe a pipeline or an augmentation, and points at the place of a mistake.

The texts share one grammar: steps of a name with arguments in parentheses,

    step     = name [ "(" [ argument { "," argument } ] ")" ]
    argument = [ name "=" ] ( number [ "%" ] | name )

A name is letters, digits, '-', '_' and '.', and does not start with a digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segwright.core.errors import PostprocessError
from segwright.core.names import nearest_names

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?%?)|(?P<name>[^\W\d][\w.\-]*)|(?P<sign>\S))"
)


@dataclass(frozen=True)
class Value:
    """A number (``share`` where it was a percentage: then 0…1) or a word, with its place in the text."""

    text: str
    place: int
    number: float | None = None
    share: bool = False


@dataclass(frozen=True)
class StepSpec:
    """A name with its arguments, as written; nothing is known yet of what they mean."""

    name: str
    place: int
    positional: tuple[Value, ...]
    named: dict[str, Value]
    number: float | None = None  # where the step is a bare number (a scale)


class Reader:
    """A text with a position in it."""

    def __init__(self, text: str, what: str, part: str = "step") -> None:
        self.text = text
        self.what = what
        self.part = part  # what one of the separated parts is called
        self.place = 0

    def mistake(
        self, message: str, place: int, *, expected: str | None = None, fix: str | None = None
    ) -> PostprocessError:
        """The error for a mistake at character ``place`` (from 0), with the text and a caret under it."""
        shown = re.sub(r"\s", " ", self.text)  # one line, so that the caret stands under its character
        return PostprocessError(
            f"{self.what}: {message}, at character {place + 1}\n  {shown}\n  {' ' * place}^", expected=expected, fix=fix
        )

    def unknown(
        self, kind: str, name: str, place: int, known: Iterable[str], *, others: Mapping[str, str] | None = None
    ) -> PostprocessError:
        """The error for a name that is none of ``known``, with the nearest one as the fix.

        ``others``: what some would call a thing → what it is called here.
        """
        names = list(known)
        meant = {**{known.lower(): known for known in names}, **(others or {})}
        near = nearest_names(name, meant)
        fix = f"did you mean {meant[near[0]]}?" if near else None
        return self.mistake(f"unknown {kind} {name!r}", place, expected=", ".join(names), fix=fix)

    def peek(self) -> tuple[str, str, int]:
        """(kind, text, place) of what comes next; kind is number, name, sign or end."""
        found = _TOKEN.match(self.text, self.place)
        if found is None:
            return "end", "", len(self.text.rstrip())
        kind = str(found.lastgroup)
        return kind, found.group(kind), found.start(kind)

    def take(self) -> tuple[str, str, int]:
        kind, text, place = self.peek()
        self.place = place + len(text)
        return kind, text, place

    def takes(self, sign: str) -> bool:
        """Whether ``sign`` comes next; if so it is read."""
        if self.peek()[:2] == ("sign", sign):
            self.take()
            return True
        return False

    def steps(self, separator: str) -> list[StepSpec]:
        """Every step to the end of the text."""
        if self.peek()[0] == "end":
            raise self.mistake("nothing here", 0, expected=f"at least one {self.part}")
        found = [self.step()]
        while self.takes(separator):
            found.append(self.step())
        kind, text, place = self.peek()
        if kind != "end":
            raise self.mistake(
                f"{text!r} does not belong here",
                place,
                expected=f"{separator!r} or the end",
                fix=f"{self.part}s are joined by {separator!r}: "
                + separator.join([found[-1].name, "close(3)" if separator == ">" else "0.75"]),
            )
        return found

    def step(self) -> StepSpec:
        kind, text, place = self.take()
        if kind == "number" and not text.endswith("%"):
            return StepSpec(text, place, (), {}, float(text))
        if kind != "name":
            missing = kind == "end" or text in ">,"
            raise self.mistake(
                f"a {self.part} is missing" if missing else f"no {self.part} starts with {text!r}", place
            )
        positional: list[Value] = []
        named: dict[str, Value] = {}
        if self.takes("(") and not self.takes(")"):
            while True:
                self._argument(positional, named)
                if self.takes(")"):
                    break
                if not self.takes(","):
                    raise self._unfinished()
        return StepSpec(text, place, tuple(positional), named)

    def _unfinished(self) -> PostprocessError:
        """What is wrong where an argument is followed by neither ',' nor ')'."""
        kind, wrong, place = self.peek()
        before = self.text[: self.place]
        fix = None
        if kind == "name" and before[-1:].isdigit():
            fix = "numbers go without a unit: areas and sizes are in pixels, shares end with %"
        elif kind == "name" and before[-1:].isspace() is False and self.text[self.place : place].isspace():
            fix = "a class whose name is not one word goes by its index: class0, class1, …"
        elif wrong == ":":
            fix = "a value follows '='"
        message = f"{wrong!r} does not belong here" if wrong else "the parenthesis is not closed"
        return self.mistake(message, place, expected="',' or ')'", fix=fix)

    def _argument(self, positional: list[Value], named: dict[str, Value]) -> None:
        value = self._value()
        if value.number is None and self.takes("="):
            if value.text in named:
                raise self.mistake(f"{value.text!r} is given twice", value.place)
            named[value.text] = self._value()
            return
        if named:
            raise self.mistake("an argument without a name comes after one with a name", value.place)
        positional.append(value)

    def _value(self) -> Value:
        kind, text, place = self.take()
        if kind == "name":
            return Value(text, place)
        if kind == "number":
            share = text.endswith("%")
            return Value(text, place, float(text.rstrip("%")) / (100 if share else 1), share)
        raise self.mistake("a value is missing", place, expected="a number, a percentage or a word")
