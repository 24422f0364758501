"""``edge-stt transcribe``: sound files, folders and standard input to text, subtitles and tables."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..audio import audio_duration, read_stdin
from ..batch import Heard, Job, LoadOptions, Outcome, do_job, in_processes
from ..errors import AudioError, EdgeSttError, UsageError
from ..features import Floats
from ..inputs import Recording, find_recordings, output_paths
from ..interrupts import Interrupted, Interrupts
from ..live import NAME, can_show_partials, listen
from ..outputs import WRITERS

STDIN = Path("-")
Names = list[str]


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Sound files, folders, patterns, or - for standard input.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the one that comes along.")] = None,
    format: Annotated[Names | None, typer.Option(help=f"{', '.join(WRITERS)} (txt); repeat for several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output_dir: Annotated[Path | None, typer.Option(help="Write files there, not to standard output.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what is already in --output-dir.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --output-dir.")] = False,
    keep_suffix: Annotated[bool, typer.Option("--keep-suffix", help="Write talk.wav.txt, not talk.txt.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Files to work on at once, each in a process of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the TFLite runtime.")] = 1,
    decoder: Annotated[str | None, typer.Option(help="greedy, beam or lexicon; without it, the model's own.")] = None,
    beam_width: Annotated[int | None, typer.Option(min=1, help="Readings followed at once; more are slower.")] = None,
    lm_weight: Annotated[float | None, typer.Option(help="Weight of the language model.")] = None,
    word_insertion_bonus: Annotated[float | None, typer.Option(help="Added for each word: more gives more.")] = None,
    hot_words: Annotated[Path | None, typer.Option(help="File of words to favour: phrase, tab, weight.")] = None,
    rate: Annotated[int, typer.Option(min=1, help="Hz, of raw 16-bit PCM on standard input.")] = 16_000,
    channels: Annotated[int, typer.Option(min=1, help="Channels of raw PCM on standard input.")] = 1,
    timing: Annotated[bool, typer.Option("--timing", help="Say on stderr how long each file took.")] = False,
) -> None:
    """Write what is said in sound files (WAV, FLAC, OGG, Opus, MP3 and others; any rate) to standard output or files.

    What fails is named at the end, and the exit code is then 1; everything else is done.
    """
    formats = choose_formats(format, as_json, output_dir is not None)
    if output_dir is None and (resume or overwrite or keep_suffix):
        raise UsageError("--resume, --overwrite and --keep-suffix need --output-dir")
    if resume and overwrite:
        raise UsageError("--resume leaves what is there and --overwrite replaces it; give one of them")
    options = LoadOptions(
        os.fspath(model) if model else None,
        threads,
        decoder,
        beam_width,
        lm_weight,
        word_insertion_bonus,
        os.fspath(hot_words) if hot_words else None,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with Interrupts() as interrupts:
        if STDIN in files:
            if len(files) > 1:
                raise UsageError("standard input (-) cannot be one of several; give it alone")
            run = plan([Recording(Path(NAME), Path(NAME))], formats, output_dir, resume, overwrite, keep_suffix)
            _transcribe_stdin(run, options, interrupts, (rate, channels))
        else:
            found = find_recordings(files)
            run = plan(found.recordings, formats, output_dir, resume, overwrite, keep_suffix)
            run.failures += found.missing
            _complain(found.notes)
            _transcribe_files(run, options, interrupts, jobs, timing)
    _finish(run)


@dataclass
class Run:
    """What is to be done, and how it went. ``refused`` is what need not be tried, by its place in ``jobs``."""

    jobs: list[Job]
    refused: dict[int, str]
    to_files: bool
    skipped: int = 0
    done: int = 0
    failures: list[str] = field(default_factory=list)
    interrupted: Interrupted | None = None


def choose_formats(formats: Names | None, as_json: bool, to_files: bool) -> Names:
    """The formats asked for, each once; raises `UsageError` for unknown ones, and several on standard output."""
    chosen = list(dict.fromkeys([*(formats or []), *(["json"] if as_json else [])])) or ["txt"]
    for name in chosen:
        if name not in WRITERS:
            raise UsageError(f"unknown format {name!r}; choose of {', '.join(WRITERS)}")
    if len(chosen) > 1 and not to_files:
        raise UsageError("standard output takes one format; several need --output-dir")
    return chosen


def plan(
    recordings: list[Recording],
    formats: Names,
    output_dir: Path | None,
    resume: bool = False,
    overwrite: bool = False,
    keep_suffix: bool = False,
) -> Run:
    """What to do for each recording; raises `UsageError` for results that would be in each other's way."""
    if output_dir is None:
        if len(recordings) > 1 and not WRITERS[formats[0]].several:
            raise UsageError(f"{formats[0]} of several recordings needs --output-dir")
        return Run([Job(os.fspath(r.path), shown=formats[0]) for r in recordings], {}, False)
    run = Run([], {}, True)
    for recording, outputs in zip(recordings, output_paths(recordings, output_dir, formats, keep_suffix), strict=True):
        there = {kind for kind, path in outputs.items() if os.path.lexists(path)}
        if resume and len(there) == len(outputs):
            run.skipped += 1
            continue
        wanted = {kind: os.fspath(path) for kind, path in outputs.items() if not resume or kind not in there}
        job = Job(os.fspath(recording.path), wanted)
        if there and not (resume or overwrite):
            written = Job(os.fspath(outputs[min(there)])).name
            run.refused[len(run.jobs)] = f"{job.name}: {written} exists; --overwrite replaces it, --resume leaves it"
        run.jobs.append(job)
    return run


def _transcribe_files(run: Run, options: LoadOptions, interrupts: Interrupts, processes: int, timing: bool) -> None:
    """Do the jobs of a run that need doing, and note what became of all."""
    todo = [job for index, job in enumerate(run.jobs) if index not in run.refused]
    shows = sys.stderr.isatty() and (run.to_files or not sys.stdout.isatty()) and not timing
    with _progress(todo, shows) as heard:
        if processes > 1 and len(todo) > 1:
            outcomes = in_processes(todo, options, processes, interrupts, heard)
        else:
            outcomes = _in_this_process(todo, options, interrupts, heard, alone=len(run.jobs) == 1)
        try:
            with closing(outcomes):
                for index, job in enumerate(run.jobs):
                    refusal = run.refused.get(index)
                    outcome = Outcome(error=refusal) if refusal else next(outcomes)
                    _note(run, job, outcome, timing)
                    interrupts.check()
        except Interrupted as interrupted:
            run.interrupted = interrupted


def _in_this_process(
    jobs: list[Job], options: LoadOptions, interrupts: Interrupts, heard: Heard, alone: bool
) -> Generator[Outcome]:
    """Do jobs one after another; the text of a single one is written as it becomes certain."""
    if not jobs:
        return
    transcriber = options.load()
    for job in jobs:
        live = alone and job.shown == "txt"
        said = (lambda segment: _emit(segment.text + "\n")) if live else None
        yield do_job(transcriber, job, interrupts, heard, said)


def _transcribe_stdin(run: Run, options: LoadOptions, interrupts: Interrupts, raw_format: tuple[int, int]) -> None:
    """Standard input: an interrupt ends the recording, and what was said until then is written."""
    if run.refused or not run.jobs:
        run.failures += run.refused.values()
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError("standard input is a terminal; pipe audio into it: arecord … | edge-stt transcribe -")
    transcriber = options.load()
    (job,) = run.jobs

    def recorded() -> Iterator[Floats]:
        try:
            yield from interrupts.watch(read_stdin(sample_rate=raw_format[0], channels=raw_format[1]))
        except Interrupted as interrupted:
            run.interrupted = interrupted

    if job.shown is not None and WRITERS[job.shown].several:
        listen(transcriber, recorded(), WRITERS[job.shown], _emit, can_show_partials(sys.stdout.isatty()))
        run.done += 1
    else:
        _note(run, job, do_job(transcriber, job, interrupts, source=recorded()), timing=False)


def _note(run: Run, job: Job, outcome: Outcome, timing: bool) -> None:
    """Show what is to be shown of one outcome, and count it."""
    _complain(outcome.warnings)
    if outcome.error is not None:
        run.failures.append(outcome.error)
        return
    run.done += 1
    if job.shown == "txt" and len(run.jobs) > 1:
        _emit(" ".join([f"{job.name}:", *outcome.shown.split()]) + "\n")
    elif outcome.shown:
        _emit(outcome.shown)
    if timing:
        rtf = outcome.elapsed / outcome.duration if outcome.duration else 0.0
        line = f"{job.name}: {outcome.duration:.1f} s of audio in {outcome.elapsed:.2f} s (RTF {rtf:.4f})"
        typer.echo(line, err=True)


def _finish(run: Run) -> None:
    """Say at the end what failed, and exit with 1 after failures, with 128 and the signal's number after a signal."""
    _complain(run.failures)
    total = len(run.jobs) + run.skipped
    failed = f"{len(run.failures)} failed" if run.failures else ""
    if run.interrupted is not None:
        skipped = f"{run.skipped} were done before" if run.skipped else ""
        again = "--resume goes on from here" if run.to_files else ""
        said = ", ".join(filter(None, [f"{run.done} of {total} files done", failed, skipped, again]))
        _complain([f"stopped by {run.interrupted}: {said}"])
        raise typer.Exit(128 + run.interrupted.number)
    if run.failures:
        if total > 1:
            _complain([f"{len(run.failures)} of {max(total, len(run.failures))} failed"])
        raise typer.Exit(1)
    if run.to_files and sys.stderr.isatty():
        skipped = f", {run.skipped} were there before" if run.skipped else ""
        _complain([f"{run.done} files transcribed{skipped}"])


def _complain(lines: Any) -> None:
    for line in lines:
        typer.echo(f"edge-stt: {line}", err=True)


def _emit(text: str) -> None:
    """Write to standard output at once; raises `EdgeSttError` when it takes no more."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError):  # what is left in the buffer must not fail a second time when Python exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise EdgeSttError(f"cannot write to standard output: {error.strerror or error}") from error


@contextmanager
def _progress(jobs: list[Job], shows: bool) -> Iterator[Callable[[float], None]]:
    """A bar of seconds of audio on stderr: how far, how fast, how long to go."""
    if not shows or not jobs:
        yield lambda seconds: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        """Seconds of audio a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} s of audio a second" if task.speed else "")

    durations = [audio_duration(job.path) for job in jobs]
    known = [seconds for seconds in durations if seconds is not None]
    total = sum(known) / len(known) * len(durations) if known else None
    done = TextColumn("{task.percentage:>3.0f} %") if total else TextColumn("{task.completed:.0f} s")
    columns = (TextColumn("{task.description}"), BarColumn(), done, Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task("Transcribing", total=total)
        yield lambda seconds: progress.advance(task, seconds)
