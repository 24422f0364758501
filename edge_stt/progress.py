"""A bar on a terminal: how much audio is done, how fast, how long to go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .audio import audio_duration


@contextmanager
def progress_bar(paths: Sequence[str], shows: bool) -> Iterator[Callable[[float], None]]:
    """A bar on stderr for these recordings; gives a function that is told of further seconds of audio.

    Recordings whose header states no duration count as long as the others; if none states any, there is no end to see.
    """
    if not shows or not paths:
        yield lambda seconds: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        """Seconds of audio a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} s of audio a second" if task.speed else "")

    durations = [audio_duration(path) for path in paths]
    known = [seconds for seconds in durations if seconds is not None]
    total = sum(known) / len(known) * len(durations) if known else None
    done = TextColumn("{task.percentage:>3.0f} %") if total else TextColumn("{task.completed:.0f} s")
    columns = (TextColumn("{task.description}"), BarColumn(), done, Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task("Transcribing", total=total)
        yield lambda seconds: progress.advance(task, seconds)
