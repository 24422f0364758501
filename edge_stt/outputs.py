"""A transcript as text, JSON, subtitles or tables: one small writer a format, all of them in `WRITERS`."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Protocol

from .recogniser import Transcript
from .subtitles import make_cues


class ResultWriter(Protocol):
    """One output format. ``several``: results of several recordings may follow one another in one stream."""

    suffix: str
    several: bool

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """The text of the file, in pieces, ending with a newline; ``name`` is the recording's."""
        ...


class WriteText:
    """The words and nothing else, one line an utterance."""

    suffix, several = ".txt", True

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """One line an utterance; an empty one if nothing was said."""
        for segment in transcript.segments:
            yield segment.text + "\n"
        if not transcript.segments:
            yield "\n"


class WriteJson:
    """Everything that is known, one object on one line: ``file``, ``text``, ``duration`` and ``segments``.

    A segment is one utterance with ``start``, ``end``, ``text`` and ``words``; a word has ``text``, ``start``, ``end``
    and ``confidence``. Times are in seconds. A phrase of a grammar has ``score`` and ``slots`` too.
    """

    suffix, several = ".json", True

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """The object, a segment at a time: as one string it would double the memory of a long recording."""
        head = {"file": name, "text": transcript.text, "duration": transcript.duration}
        yield json.dumps(head, ensure_ascii=False)[:-1] + ', "segments": ['
        for index, segment in enumerate(transcript.segments):
            yield (", " if index else "") + json.dumps(segment.to_dict(), ensure_ascii=False)
        yield "]}\n"


class WriteSrt:
    """SubRip subtitles: what video players read. Empty when nothing was said."""

    suffix, several = ".srt", False

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """Numbered subtitles with an empty line after each."""
        for number, cue in enumerate(make_cues(transcript.words), 1):
            times = f"{clock(cue.start, ',')} --> {clock(cue.end, ',')}"
            yield f"{number}\n{times}\n" + "\n".join(cue.lines) + "\n\n"


class WriteVtt:
    """WebVTT subtitles: what browsers read. Source: W3C, WebVTT: The Web Video Text Tracks Format, section 4."""

    suffix, several = ".vtt", False

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """A header, and subtitles with an empty line before each."""
        yield "WEBVTT\n"
        for cue in make_cues(transcript.words):
            lines = html.escape("\n".join(cue.lines), quote=False)
            yield f"\n{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{lines}\n"


class WriteTsv:
    """A table of utterances for spreadsheets: ``start``, ``end`` (whole milliseconds) and ``text``, tabs between."""

    suffix, several = ".tsv", False

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """A header and one line an utterance."""
        yield "start\tend\ttext\n"
        for segment in transcript.segments:
            yield f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{segment.text}\n"


class WriteCtm:
    """Words in NIST's time-marked conversation format, for scoring tools: recording, channel, start, duration, word,
    confidence. Source: NIST, SCTK, doc/infmts.htm."""

    suffix, several = ".ctm", True

    def pieces(self, transcript: Transcript, name: str) -> Iterator[str]:
        """One line a word. The recording is the file's name without folder and ending, spaces become underscores."""
        recording = "_".join(PurePath(name).stem.split()) or "-"
        for word in transcript.words:
            duration = word.end - word.start
            yield f"{recording} 1 {word.start:.3f} {duration:.3f} {word.text} {word.confidence:.4f}\n"


WRITERS: dict[str, ResultWriter] = {
    "txt": WriteText(),
    "json": WriteJson(),
    "srt": WriteSrt(),
    "vtt": WriteVtt(),
    "tsv": WriteTsv(),
    "ctm": WriteCtm(),
}


def clock(seconds: float, point: str) -> str:
    """``HH:MM:SS``, the decimal point of the format, and milliseconds; hours may have more than two digits."""
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
