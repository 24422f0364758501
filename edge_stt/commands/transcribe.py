"""``edge-stt transcribe``: sound files, folders and standard input to text, subtitles and tables."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ..audio import read_stdin
from ..batch import Heard, Job, LoadOptions, Outcome, do_job, in_processes, warnings_as_lines
from ..errors import AudioError, EdgeSttError, UsageError
from ..features import Floats
from ..hotwords import DEFAULT_WEIGHT, MAX_WEIGHT
from ..inputs import Recording, find_recordings
from ..interrupts import Interrupted, Interrupts
from ..live import NAME, can_show_partials, listen
from ..outputs import WRITERS
from ..progress import progress_bar
from ..recogniser import Segment
from ..runs import OutputOptions, Run, plan
from .raw_pcm import RawChannels, RawRate, raw_format

STDIN = "-"


def transcribe(
    files: Annotated[list[str], typer.Argument(help="Sound files, folders, patterns, or - for standard input.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the active one.")] = None,
    format: Annotated[list[str] | None, typer.Option(help=f"{', '.join(WRITERS)} (txt); repeat for several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output_dir: Annotated[Path | None, typer.Option(help="Write files there, not to standard output.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what is already in --output-dir.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --output-dir.")] = False,
    keep_suffix: Annotated[bool, typer.Option("--keep-suffix", help="Write talk.wav.txt, not talk.txt.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Files to work on at once, each in a process of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of the TFLite runtime.")] = 1,
    decoder: Annotated[str | None, typer.Option(help="greedy, beam or lexicon; without it, the model's own.")] = None,
    beam_width: Annotated[int | None, typer.Option(min=1, help="Readings followed at once; more are slower.")] = None,
    lm_weight: Annotated[float | None, typer.Option(help="Weight of the language model.")] = None,
    word_insertion_bonus: Annotated[float | None, typer.Option(help="Added for each word: more gives more.")] = None,
    hotword: Annotated[list[str] | None, typer.Option(help="Word or phrase to favour; repeat for several.")] = None,
    hotword_file: Annotated[Path | None, typer.Option(help="File of them, one a line: phrase, tab, weight.")] = None,
    phrases: Annotated[Path | None, typer.Option(help="File of phrases: nothing else can come out.")] = None,
    hotword_weight: Annotated[
        float | None, typer.Option(help=f"Weight of hot words that have none of their own ({DEFAULT_WEIGHT:g}).")
    ] = None,
    rate: RawRate = None,
    channels: RawChannels = None,
    timing: Annotated[bool, typer.Option("--timing", help="Say on stderr how long each file took.")] = False,
) -> None:
    """Write what is said in sound files (WAV, FLAC, OGG, Opus, MP3 and others; any rate) to standard output or files.

    What fails is named at the end, and the exit code is then 1; everything else is done.
    """
    formats = tuple(dict.fromkeys([*(format or []), *(["json"] if as_json else [])])) or ("txt",)
    outputs = OutputOptions(formats, output_dir, resume, overwrite, keep_suffix)
    _check_hotwords(hotword_weight, hotword, hotword_file)
    options = LoadOptions(
        os.fspath(model) if model else None,
        threads,
        decoder,
        beam_width,
        lm_weight,
        word_insertion_bonus,
        tuple(hotword or ()),
        os.fspath(hotword_file) if hotword_file else None,
        DEFAULT_WEIGHT if hotword_weight is None else hotword_weight,
        os.fspath(phrases) if phrases else None,
    )
    if "" in files:  # an unset variable of a shell; as a Path it would be the current folder
        raise UsageError("the name of a file is empty; name a file, or . for the current folder")
    from_stdin = STDIN in files
    if from_stdin and len(files) > 1:
        raise UsageError("standard input (-) cannot be one of several; give it alone")
    raw = raw_format(rate, channels, from_stdin, "transcribe -")
    outputs.check()
    if sys.stdout is None and output_dir is None:
        raise EdgeSttError("standard output is closed; give --output-dir, or do not close it")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with Interrupts() as interrupts:
        if from_stdin:
            run = plan([Recording(Path(NAME), Path(NAME))], outputs)
            _transcribe_stdin(run, options, interrupts, raw)
        else:
            found = find_recordings([Path(file) for file in files])
            run = plan(found.recordings, outputs)
            run.failures += found.missing
            _complain(found.notes)
            _transcribe_files(run, options, interrupts, jobs, timing)
    if run.exit_code or _is_terminal(sys.stderr):
        _complain(run.summary())
    raise typer.Exit(run.exit_code)


def _check_hotwords(weight: float | None, phrases: list[str] | None, file: Path | None) -> None:
    if weight is None:
        return
    if not phrases and file is None:
        raise UsageError("--hotword-weight needs --hotword or --hotword-file")
    if not 0 < weight <= MAX_WEIGHT:
        raise UsageError(f"--hotword-weight {weight:g} cannot be; give one above 0 and at most {MAX_WEIGHT:g}")


def _transcribe_files(run: Run, options: LoadOptions, interrupts: Interrupts, processes: int, timing: bool) -> None:
    """Do the jobs of a run that need doing, and note what became of all."""
    todo, places = run.todo, [index for index in range(len(run.jobs)) if index not in run.refused]
    outcomes: dict[int, Outcome] = {}  # that wait for those before them
    shows = _is_terminal(sys.stderr) and (run.to_files or not _is_terminal(sys.stdout)) and not timing
    with progress_bar([job.path for job in todo], shows) as heard:
        if processes > 1 and len(todo) > 1:
            coming = in_processes(todo, options, processes, interrupts, heard)
        else:
            coming = _in_this_process(todo, options, interrupts, heard, alone=len(run.jobs) == 1)
        try:
            with closing(coming):
                for index, job in enumerate(run.jobs):
                    if refusal := run.refused.get(index):
                        outcomes[index] = Outcome(error=refusal)
                    while index not in outcomes:
                        number, outcome = next(coming)
                        outcomes[places[number]] = outcome
                    _note(run, job, outcomes.pop(index), timing)
                    interrupts.check()
        except Interrupted as interrupted:
            run.interrupted = interrupted
            for index in sorted(outcomes) if run.to_files else ():  # they are done, though their turn did not come
                _note(run, run.jobs[index], outcomes[index], timing)
        except EdgeSttError:  # no model, standard output is full: nothing more can be done
            _complain(run.failures)
            raise


def _in_this_process(
    jobs: list[Job], options: LoadOptions, interrupts: Interrupts, heard: Heard, alone: bool
) -> Generator[tuple[int, Outcome], None, None]:
    """Do jobs one after another; the text of a single one is written as it becomes certain."""
    if not jobs:
        return
    transcriber = options.load()
    for number, job in enumerate(jobs):
        live = alone and job.shown == "txt"
        said = _say if live else None
        yield number, do_job(transcriber, job, interrupts, heard, said)


def _transcribe_stdin(run: Run, options: LoadOptions, interrupts: Interrupts, raw: tuple[int, int]) -> None:
    """Standard input: an interrupt ends the recording, and what was said until then is written.

    A file (``< talk.wav``) is all there already, and transcribed like one that is named.
    """
    if not run.todo:
        run.failures += run.refused.values()
        return
    if sys.stdin is None or _is_terminal(sys.stdin):
        raise AudioError("nothing is piped into standard input; pipe audio into it: arecord … | edge-stt transcribe -")
    transcriber = options.load()
    (job,) = run.jobs

    def recorded() -> Iterator[Floats]:
        try:
            yield from interrupts.watch(read_stdin(sample_rate=raw[0], channels=raw[1]))
        except Interrupted as interrupted:
            run.interrupted = interrupted

    is_file = stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    if job.shown is not None and WRITERS[job.shown].several and not is_file:
        with warnings_as_lines() as warnings:
            listen(transcriber, recorded(), WRITERS[job.shown], _emit, can_show_partials(_is_terminal(sys.stdout)))
        _complain(warnings)
        run.done += 1
    else:
        said = _say if job.shown == "txt" else None
        _note(run, job, do_job(transcriber, job, interrupts, said=said, source=recorded()), timing=False)


def _say(segment: Segment) -> None:
    _emit(segment.text + "\n")


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


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it; Python has None for a stream that the caller closed."""
    return stream is not None and stream.isatty()


def _complain(lines: Iterable[str]) -> None:
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
