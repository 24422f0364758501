"""``edge-stt doctor``: does this installation work? One line a check, with what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..health import Check


def doctor(
    model: Annotated[Path | None, typer.Option(help="Model package to check; without it, the active one.")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, max=600.0, help="How long the demo clip is transcribed over and over.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False,
) -> None:
    """Check Python, runtime, model, speed, microphones, the service and the processor's temperature.

    Exit code 1 when a check fails.
    """
    from ..health import run_checks  # not needed by the other commands, which load this module too

    checks = run_checks(model, seconds)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False))
    else:
        for check in checks:
            typer.echo(f"{_mark(check)} {check.name}: {check.detail}")
            if check.fix:
                typer.echo(f"     → {check.fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _mark(check: Check) -> str:
    if not check.ok:
        return "FAIL"
    return "note" if check.note else "ok  "
