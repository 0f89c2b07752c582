"""Spans of time as people type them: 90m, 12h, 14d."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Span(click.ParamType[timedelta]):
    """A whole number of minutes, hours or days, at most `longest`."""

    name = "span"

    def __init__(self, longest: timedelta, least: timedelta = timedelta()) -> None:
        self._longest, self._least = longest, least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        text = str(value)
        if text[-1:] not in _UNITS or not (text[:-1].isascii() and text[:-1].isdigit()) or len(text) > 6:
            self.fail("write a span as 90m, 12h or 14d", param, ctx)
        span = timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        if not self._least <= span <= self._longest:
            self.fail(f"{text} is not between {self._least} and {self._longest}", param, ctx)
        return span
