"""Help in which an option without a value shows no type.

Typer 0.29 writes ``--watch <bool>``, which reads as if ``--watch true`` were meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
ParameterT = TypeVar("ParameterT")


class FlagApp(typer.Typer):
    """An application whose help shows no type for options without a value."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[CommandT], CommandT]:
        return super().command(name, cls=_Command, **settings)


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[ParameterT]) -> list[ParameterT]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # type: ignore[attr-defined]
    return parameters
