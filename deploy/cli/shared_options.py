"""Options that several commands take, declared once as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def taking(options: type[T]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose first parameter is an `options`: the command line has its fields in place of it, after the
    command's own. A field is an `Annotated` type, and without a default it must be given."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = inspect.get_annotations(options, eval_str=True)
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if f.default is MISSING else f.default,
                annotation=hints[f.name],
            )
            for f in fields(options)  # type: ignore[arg-type]
        ]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            command(options(**{p.name: given.pop(p.name) for p in shared}), **given)

        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        called.__signature__ = inspect.Signature([*kept, *shared])  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in (*kept, *shared)}
        return called

    return decorate
