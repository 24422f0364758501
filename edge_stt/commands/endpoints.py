"""``edge-stt endpoints``: how soon and how surely each endpoint preset finds the end of speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..daemon_config import RecogniserConfig
from ..errors import DataError, UsageError

MAX_DB = 120  # of a signal-to-noise ratio: more than 16-bit audio holds
SPEECH_LABELS = {"speech", "music"}  # of noises with voices in them


def endpoints(
    noise: Annotated[Path, typer.Option(help="JSONL manifest of noise.")],
    manifest: Annotated[
        Path | None, typer.Argument(help="JSONL manifest of clean speech; without it, only the noise is listened to.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the active one.")] = None,
    decoder: Annotated[str | None, typer.Option(help="greedy, beam or lexicon; without it, the model's own.")] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Preset; repeat for several. Without it, all.")] = None,
    snr: Annotated[float, typer.Option(help="Signal-to-noise ratio in dB.")] = 20.0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many clips, evenly spread.")] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Utterances below it are left out.")
    ] = RecogniserConfig.min_confidence,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each preset instead of a table.")] = False,
) -> None:
    """Print median delay and cut-off rate of endpoint presets on clips padded with noise, and words made up of noise.

    Noises labelled speech or music are left out: there is somebody to be heard in them. All is heard as `edge-stt
    listen` hears it; "doubtful" are words of the speech in utterances that are left out like those made up.
    """
    from ..audio import read_audio
    from ..corpora import read_manifest
    from ..decoders import check_decoder
    from ..endpoint_bench import score, score_noise
    from ..endpointing import PRESETS
    from ..features import Floats
    from ..recogniser import load_model

    names = preset or list(PRESETS)
    for name in names:
        if name not in PRESETS:
            raise UsageError(f"unknown preset {name!r}; choose of {', '.join(PRESETS)}")
    if decoder is not None:
        check_decoder(decoder)
    if not abs(snr) <= MAX_DB:  # neither is what is no number
        raise UsageError(f"--snr must be between {-MAX_DB} and {MAX_DB}, not {snr:g}")

    def load(path: Path, most: int | None, spoken: bool) -> list[Floats]:
        found = [clip for clip in read_manifest(path, _complain) if spoken or _label(clip.source) not in SPEECH_LABELS]
        if not found:
            raise DataError(f"{path}: no clip in it can be used")
        step = max(1.0, len(found) / most) if most else 1.0
        chosen = [found[int(i * step)] for i in range(min(len(found), most or len(found)))]
        return [read_audio(clip.path) for clip in chosen]

    transcriber = load_model(model, decoder=decoder)  # before the audio, which takes longer
    clips = load(manifest, limit, True) if manifest is not None else []
    noises = load(noise, limit, False)
    rows = Table(as_json)
    for name in names:
        row: dict[str, Any] = {"preset": name}
        if clips:
            result = score(transcriber, PRESETS[name], clips, noises, snr, min_confidence)
            row |= {
                "snr": snr,
                "clips": result.clips,
                "delay_p50": round(result.delay(50), 3),
                "delay_p90": round(result.delay(90), 3),
                "cut_off": round(result.cut_off / result.clips, 4),
                "missed": result.missed,
                "doubtful": round(result.doubtful / max(1, result.words), 4),
            }
        made_up = score_noise(transcriber, PRESETS[name], noises, min_confidence)
        row |= {
            "noise_minutes": round(made_up.seconds / 60, 2),
            "noise_words_per_minute": round(made_up.per_minute(made_up.words), 2),
            "noise_utterances_per_minute": round(made_up.per_minute(made_up.utterances), 2),
            "noise_rejected_per_minute": round(made_up.per_minute(made_up.rejected), 2),
        }
        rows.add(row)


HEADS = {
    "preset": "preset",
    "snr": "SNR, dB",
    "clips": "clips",
    "delay_p50": "delay p50",
    "delay_p90": "delay p90",
    "cut_off": "cut off",
    "missed": "missed",
    "doubtful": "doubtful",
    "noise_minutes": "noise, min",
    "noise_words_per_minute": "words/min of it",
    "noise_utterances_per_minute": "utterances/min",
    "noise_rejected_per_minute": "rejected/min",
}


class Table:
    """Rows as they come: JSON lines, or columns under the `HEADS` of what is in the first."""

    def __init__(self, as_json: bool) -> None:
        self._as_json, self._begun = as_json, False

    def add(self, row: dict[str, Any]) -> None:
        """Print one."""
        if self._as_json:
            typer.echo(json.dumps(row))
            return
        widths = {key: max(len(HEADS[key]), 10) for key in row}
        if not self._begun:
            typer.echo("  ".join(HEADS[key].rjust(width) for key, width in widths.items()))
        self._begun = True
        shown = {key: f"{row[key]:.1%}" if key in ("cut_off", "doubtful") else str(row[key]) for key in row}
        typer.echo("  ".join(shown[key].rjust(width) for key, width in widths.items()))


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
