"""Text while somebody speaks: partial results on a terminal, whole utterances into a pipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable

from .features import Floats
from .outputs import ResultWriter
from .recogniser import Segment, Transcriber, Transcript
from .streaming import Final, Partial, StreamingTranscriber

NAME = "stdin"  # of what comes in, in results
CLEAR_LINE = "\r\x1b[2K"  # ECMA-48: carriage return, erase in line


def listen(
    transcriber: Transcriber,
    blocks: Iterable[Floats],
    writer: ResultWriter,
    emit: Callable[[str], None],
    on_terminal: bool,
) -> float:
    """Transcribe blocks (float32 ``[n]`` at 16 kHz) as they come; returns the seconds heard.

    Each utterance is written when it ends, as if it were a recording of its own, with times of the whole; on a
    terminal, what was said so far is shown on a line that the whole utterance then replaces. A model without a
    streaming form writes utterances only.
    """
    samples = 0
    unfinished = False  # a line with a partial result stands on the terminal

    def counted() -> Iterable[Floats]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    def write(segment: Segment, start: float, end: float) -> None:
        result = Transcript.of([segment], round(end - start, 3))
        emit((CLEAR_LINE if on_terminal else "") + "".join(writer.pieces(result, NAME)))

    def show(events: list[Partial | Final]) -> None:
        nonlocal unfinished
        for event in events:
            unfinished = on_terminal and isinstance(event, Partial)
            if isinstance(event, Final):  # whose times are those of its audio; a segment's are those of its words
                words = event.words
                segment = Segment(words[0].start, words[-1].end, event.text, words, event.score, event.slots)
                write(segment, event.start, event.end)
            elif on_terminal:
                emit(CLEAR_LINE + end_of(event.text, shutil.get_terminal_size().columns - 1))

    if transcriber.info.stream is None:
        for segment in transcriber.utterances(counted()):
            write(segment, segment.start, segment.end)
    else:
        stream = StreamingTranscriber(transcriber)
        for block in counted():
            show(stream.accept_audio(block))
        show(stream.finish())
        if unfinished:  # what it showed came to nothing
            emit(CLEAR_LINE)
    return samples / transcriber.info.front_end.sample_rate


def end_of(text: str, width: int) -> str:
    """The end of a text that is too long for one line of the terminal: what was said last."""
    return text if len(text) <= width else "…" + text[len(text) - max(0, width - 1) :]


def can_show_partials(stream_is_terminal: bool) -> bool:
    """Whether a line can be written over and over again there."""
    return stream_is_terminal and os.environ.get("TERM", "dumb") != "dumb"
