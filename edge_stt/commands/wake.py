"""``edge-stt wake``: how often a wake phrase is missed, and how often it is heard where nobody said it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError
from ..wake_config import WakeConfig

if TYPE_CHECKING:
    from ..features import Floats

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


def wake(
    phrase: Annotated[str, typer.Argument(help='As for edge-stt listen --wake: "hey computer".')],
    manifests: Annotated[list[Path], typer.Argument(help="JSONL manifests of speech, with the phrase and without.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the active one.")] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(min=0.0, max=1.0, help="Threshold; repeat for several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many clips of each manifest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each threshold instead of a table.")] = False,
) -> None:
    """Print the miss rate and the false accepts per hour of a wake phrase, heard as `edge-stt listen` hears it.

    A clip whose text begins with the phrase should be heard; all other clips, those without any text too, should not.
    """
    from ..audio import read_audio
    from ..corpora import read_manifest
    from ..recogniser import load_model
    from ..wake_bench import score

    grammar = WakeConfig(phrase).grammar()
    transcriber = load_model(model)

    def clips() -> Iterator[tuple[str, Floats]]:
        for path in manifests:
            found = list(read_manifest(path, lambda line: typer.echo(f"edge-stt: {line}", err=True)))
            if not found:
                raise DataError(f"{path}: no clip in it can be used")
            step = max(1.0, len(found) / limit) if limit else 1.0
            for index in range(min(len(found), limit or len(found))):
                clip = found[int(index * step)]
                yield transcriber.info.normaliser(clip.text), read_audio(clip.path)

    result = score(transcriber, grammar, clips())
    if not as_json:
        typer.echo("threshold    said   missed  without it, h  false accepts/h")
    for value in threshold or THRESHOLDS:
        missed, accepts, hours = result.misses(value), result.false_accepts(value), result.seconds / 3600
        if as_json:
            row = {"threshold": value, "said": len(result.said), "missed": _number(missed), "hours": round(hours, 4)}
            typer.echo(json.dumps({**row, "false_accepts_per_hour": _number(accepts)}))
        else:
            shown = "-" if math.isnan(missed) else f"{missed:.1%}", "-" if math.isnan(accepts) else f"{accepts:.2f}"
            typer.echo(f"{value:>9.2f}  {len(result.said):>6}  {shown[0]:>7}  {hours:>13.2f}  {shown[1]:>15}")


def _number(value: float) -> float | None:
    """For JSON, which knows no NaN: there was nothing to count."""
    return None if math.isnan(value) else round(value, 4)
