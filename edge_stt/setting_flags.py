"""Every setting of a configuration as a flag of a command."""

from __future__ import annotations

import inspect
import operator
import shlex
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .errors import UsageError
from .settings import Setting, settings_of


def with_settings(run: Callable[..., None], config: type) -> Callable[..., None]:
    """A command for typer with the parameters of ``run``, whose last is ``**flags``, and one for each setting."""

    def command(**arguments: Any) -> None:
        run(**arguments)

    own = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    signature = inspect.Signature([*parameters, *map(_option, settings_of(config))])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    command.__doc__ = run.__doc__
    return command


def given(config: type, flags: dict[str, Any]) -> dict[str, Any]:
    """Of the parameters that `with_settings` added, those that were given, as settings by dotted name."""
    result: dict[str, Any] = {}
    for entry in settings_of(config):
        value = flags.get(_parameter(entry))
        if value is None:
            continue
        if entry.type is tuple:
            try:
                value = tuple(shlex.split(value))
            except ValueError as error:
                raise UsageError(f"{entry.flag} {value!r}: {error}") from error
        result[entry.name] = value
    return result


def _parameter(entry: Setting) -> str:
    return entry.name.replace(".", "__")


def _option(entry: Setting) -> inspect.Parameter:
    """A setting as a parameter that typer makes a flag of."""
    flag = f"{entry.flag}/--no-{entry.flag.removeprefix('--')}" if entry.type is bool else entry.flag
    known = f" Default: {_shown(entry.default)}." if entry.default not in (None, "", ()) else ""
    choices = f" One of {', '.join(entry.choices)}." if entry.choices else ""
    kind = str if entry.type is tuple else entry.type
    annotation = operator.getitem(Annotated, (kind | None, typer.Option(flag, help=entry.help + choices + known)))
    return inspect.Parameter(_parameter(entry), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
