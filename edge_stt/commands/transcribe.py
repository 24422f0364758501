"""``edge-stt transcribe``: audio files to text on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..audio import read_stdin
from ..errors import AudioError, EdgeSttError, UsageError
from ..recogniser import Transcriber, Transcript, load_model

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"}
STDIN = Path("-")


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Audio files, folders of them, or - for standard input.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the one that comes along.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, with words and times.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the TFLite runtime.")] = 1,
    decoder: Annotated[str | None, typer.Option(help="greedy, beam or lexicon; without it, the model's own.")] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Say on stderr how long each file took.")] = False,
) -> None:
    """Write what is said in audio files (WAV, FLAC, OGG, Opus, MP3; any rate) to standard output."""
    paths = list(find_audio(files))
    transcriber = load_model(model, num_threads=threads, decoder=decoder)
    failures: list[str] = []
    for path in _with_progress(paths):
        started = time.perf_counter()
        try:
            result = _transcribe_one(transcriber, path)
        except EdgeSttError as error:
            failures.append(str(error))
            continue
        if as_json:
            typer.echo(json.dumps({"file": str(path), **result.to_dict()}, ensure_ascii=False))
        else:
            typer.echo(result.text if len(paths) == 1 else f"{path}: {result.text}")
        if timing:
            elapsed = time.perf_counter() - started
            rtf = elapsed / result.duration if result.duration else 0.0
            typer.echo(f"{path}: {result.duration:.1f} s of audio in {elapsed:.2f} s (RTF {rtf:.4f})", err=True)
    for failure in failures:
        typer.echo(f"edge-stt: {failure}", err=True)
    if failures:
        if len(paths) > 1:
            typer.echo(f"edge-stt: {len(failures)} of {len(paths)} files failed", err=True)
        raise typer.Exit(1)


def find_audio(files: list[Path]) -> Iterator[Path]:
    """Files as given; folders replaced by the audio files in them, at any depth, in order of name."""
    for path in files:
        if path == STDIN or not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        if not found:
            raise UsageError(f"{path} has no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})")
        yield from found


def _transcribe_one(transcriber: Transcriber, path: Path) -> Transcript:
    if path == STDIN:
        if sys.stdin.isatty():
            raise AudioError("standard input is a terminal; pipe audio into it: arecord … | edge-stt transcribe -")
        return transcriber.transcribe_blocks(read_stdin())
    return transcriber.transcribe(path)


def _with_progress(paths: list[Path]) -> Iterator[Path]:
    """The paths, with a progress bar on a terminal when there is more than one."""
    if len(paths) < 2 or not sys.stderr.isatty() or sys.stdout.isatty():
        yield from paths
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(paths, "Transcribing", console=Console(stderr=True))
