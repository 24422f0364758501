"""What a call of `edge-stt transcribe` has to do, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .batch import Job
from .byte_streams import printable_path
from .errors import EdgeSttError, UsageError
from .inputs import Recording, output_paths
from .interrupts import Interrupted
from .outputs import WRITERS


@dataclass(frozen=True)
class OutputOptions:
    """The formats, and the folder that they go to; without a folder, one format on standard output.

    Of what is there already, ``resume`` leaves out and ``overwrite`` replaces; with neither, it is a failure.
    ``keep_suffix``: ``talk.wav.txt``, not ``talk.txt``.
    """

    formats: tuple[str, ...] = ("txt",)
    folder: Path | None = None
    resume: bool = False
    overwrite: bool = False
    keep_suffix: bool = False

    def check(self) -> None:
        """Raise `UsageError` for what is unknown or cannot be together, `EdgeSttError` for a folder not to write to."""
        for name in self.formats:
            if name not in WRITERS:
                raise UsageError(f"unknown format {name!r}; choose of {', '.join(WRITERS)}")
        if self.resume and self.overwrite:
            raise UsageError("--resume leaves what is there and --overwrite replaces it; give one of them")
        if self.folder is not None:
            _check_folder(self.folder)
        elif self.resume or self.overwrite or self.keep_suffix:
            raise UsageError("--resume, --overwrite and --keep-suffix need --output-dir")
        elif len(self.formats) > 1:
            raise UsageError("standard output takes one format; several need --output-dir")


def _check_folder(folder: Path) -> None:
    """Raise for a folder that cannot be written to: before the work, not after it."""
    shown = printable_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"--output-dir {shown} is a file; name a folder") from None
    except OSError as error:
        raise EdgeSttError(f"--output-dir {shown} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EdgeSttError(f"--output-dir {shown} cannot be written to; change its owner or mode, or name another")


@dataclass
class Run:
    """Jobs in order, and how they went. ``refused`` is what need not be tried, and why, by its place in ``jobs``."""

    jobs: list[Job]
    to_files: bool
    refused: dict[int, str] = field(default_factory=dict)
    skipped: int = 0
    done: int = 0
    failures: list[str] = field(default_factory=list)
    interrupted: Interrupted | None = None

    @property
    def todo(self) -> list[Job]:
        """The jobs that are to be tried."""
        return [job for index, job in enumerate(self.jobs) if index not in self.refused]

    def summary(self) -> list[str]:
        """What to say at the end: each failure, and how many there were of how many."""
        total = len(self.jobs) + self.skipped
        failed = f"{len(self.failures)} failed" if self.failures else ""
        there = f"{self.skipped} were there before" if self.skipped else ""
        lines = list(self.failures)
        if self.interrupted is not None:
            again = "--resume goes on from here" if self.to_files else ""
            counts = _joined([f"{self.done} of {total} files done", failed, there, again]) if total > 1 else ""
            lines.append(f"stopped by {self.interrupted}" + (f": {counts}" if counts else ""))
        elif total > 1 and (self.failures or self.to_files):
            lines.append(_joined([f"{self.done} of {total} files transcribed", failed, there]))
        return lines

    @property
    def exit_code(self) -> int:
        """0, 1 after a failure, 128 and its number after a signal."""
        if self.interrupted is not None:
            return 128 + self.interrupted.number
        return 1 if self.failures else 0


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(filter(None, parts))


def plan(recordings: Sequence[Recording], options: OutputOptions) -> Run:
    """What to do for each recording; raises `UsageError` for several that cannot follow one another in one stream."""
    if options.folder is None:
        (shown,) = options.formats
        if len(recordings) > 1 and not WRITERS[shown].several:
            raise UsageError(f"{shown} of several recordings needs --output-dir")
        return Run([Job(os.fspath(recording.path), shown=shown) for recording in recordings], to_files=False)
    run = Run([], to_files=True)
    planned = output_paths(recordings, options.folder, options.formats, options.keep_suffix)
    for recording, outputs in zip(recordings, planned, strict=True):
        if isinstance(outputs, str):
            run.refused[len(run.jobs)] = outputs
            run.jobs.append(Job(os.fspath(recording.path)))
            continue
        there = [kind for kind, path in outputs.items() if os.path.lexists(path)]
        if options.resume and len(there) == len(outputs):
            run.skipped += 1
            continue
        wanted = {k: os.fspath(path) for k, path in outputs.items() if not (options.resume and k in there)}
        if there and not (options.resume or options.overwrite):
            run.refused[len(run.jobs)] = (
                f"{printable_path(recording.path)}: {printable_path(outputs[there[0]])} exists; "
                "--overwrite replaces it, --resume leaves it"
            )
        run.jobs.append(Job(os.fspath(recording.path), wanted))
    return run
