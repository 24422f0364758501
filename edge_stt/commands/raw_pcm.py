"""The options ``--rate`` and ``--channels`` of commands that take raw PCM on standard input."""

from __future__ import annotations

from typing import Annotated

import typer

from ..audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, SAMPLE_RATE
from ..errors import UsageError

RawRate = Annotated[int | None, typer.Option(min=1, help=f"Hz, of raw 16-bit PCM on standard input ({SAMPLE_RATE}).")]
RawChannels = Annotated[int | None, typer.Option(min=1, help="Channels of raw PCM on standard input (1).")]


def raw_format(rate: int | None, channels: int | None, stdin: bool, how: str) -> tuple[int, int]:
    """Rate in Hz and channels; `UsageError` for what cannot be, and where they mean nothing, as ``how`` is not used."""
    if not stdin and (rate is not None or channels is not None):
        option = "--rate" if rate is not None else "--channels"
        raise UsageError(f"{option} is for raw PCM on standard input ({how}); a file or microphone says its own")
    if rate is not None and not MIN_RATE <= rate <= MAX_RATE:
        raise UsageError(f"--rate {rate} cannot be; {MIN_RATE} to {MAX_RATE} Hz are read")
    if channels is not None and channels > MAX_CHANNELS:
        raise UsageError(f"--channels {channels} cannot be; 1 to {MAX_CHANNELS} are read")
    return SAMPLE_RATE if rate is None else rate, 1 if channels is None else channels
