"""``edge-stt endpoints``: how soon and how surely each endpoint preset finds the end of speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, UsageError

SPEECH_LABELS = {"speech", "music"}  # of noises with voices in them


def endpoints(
    manifest: Annotated[Path, typer.Argument(help="JSONL manifest of clean speech.")],
    noise: Annotated[Path, typer.Option(help="JSONL manifest of noise.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the active one.")] = None,
    decoder: Annotated[str | None, typer.Option(help="greedy, beam or lexicon; without it, the model's own.")] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Preset; repeat for several. Without it, all.")] = None,
    snr: Annotated[float, typer.Option(help="Signal-to-noise ratio in dB.")] = 20.0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many clips, evenly spread.")] = None,
    min_confidence: Annotated[float, typer.Option(help="Noise: utterances below it are left out.")] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each preset instead of a table.")] = False,
) -> None:
    """Print median delay and cut-off rate of endpoint presets on clips padded with noise, and words made up of noise.

    Noises labelled speech or music are left out: there is somebody to be heard in them.
    """
    from ..audio import read_audio
    from ..corpora import read_manifest
    from ..endpoint_bench import score, score_noise
    from ..endpointing import PRESETS
    from ..features import Floats
    from ..recogniser import load_model

    names = preset or list(PRESETS)
    for name in names:
        if name not in PRESETS:
            raise UsageError(f"unknown preset {name!r}; choose of {', '.join(PRESETS)}")

    def load(path: Path, most: int | None, spoken: bool) -> list[Floats]:
        found = [clip for clip in read_manifest(path, _complain) if spoken or _label(clip.source) not in SPEECH_LABELS]
        if not found:
            raise DataError(f"{path}: no clip in it can be used")
        step = max(1.0, len(found) / most) if most else 1.0
        chosen = [found[int(i * step)] for i in range(min(len(found), most or len(found)))]
        return [read_audio(clip.path) for clip in chosen]

    clips, noises = load(manifest, limit, True), load(noise, limit, False)
    transcriber = load_model(model, decoder=decoder)
    if not as_json:
        typer.echo("preset      clips  delay p50  delay p90  cut off  missed  words/h of noise")
    for name in names:
        result = score(transcriber, PRESETS[name], clips, noises, snr)
        made_up = score_noise(transcriber, PRESETS[name], noises, min_confidence)
        cut_off = result.cut_off / result.clips
        if as_json:
            data = {
                "preset": name,
                "snr": snr,
                "clips": result.clips,
                "delay_p50": round(result.delay(50), 3),
                "delay_p90": round(result.delay(90), 3),
                "cut_off": round(cut_off, 4),
                "missed": result.missed,
                "noise_hours": round(made_up.seconds / 3600, 3),
                "noise_words_per_hour": round(made_up.words_per_hour, 1),
            }
            typer.echo(json.dumps(data))
        else:
            typer.echo(
                f"{name:<10}  {result.clips:>5}  {result.delay(50):>7.2f} s  {result.delay(90):>7.2f} s"
                f"  {cut_off:>6.1%}  {result.missed:>6}  {made_up.words_per_hour:>16.0f}"
            )


def _label(source: str) -> str:
    """The ``label`` of a noise, which manifests of speech do not have; ``source`` is ``file:line``."""
    path, _, number = source.rpartition(":")
    with Path(path).open(encoding="utf-8") as file:
        for index, line in enumerate(file, 1):
            if index == int(number):
                return str(json.loads(line).get("label", ""))
    return ""


def _complain(line: str) -> None:
    typer.echo(f"edge-stt: {line}", err=True)
