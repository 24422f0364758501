"""Words with times become subtitles that can be read: how much text stands how long, and where its lines break.

The rules are those of Netflix's Timed Text Style Guide, which is public (partnerhelp.netflixstudios.com, "General
Requirements" and "English (USA)"): at most two lines of 42 characters, up to 20 characters a second, 5/6 to 7 seconds
a subtitle, two frames between subtitles, up to 12 frames longer than the speech where reading needs them, and lines
that break before conjunctions and prepositions but not after an article. Frames are counted at 24 a second.

Speech faster than that cannot be helped: nothing is left out of what was said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .recogniser import Word

FRAME = 1 / 24  # seconds

# Words that belong to what follows: a line ends before them rather than after them.
_CLINGING = (
    "a an the and or but nor so yet if as that than because while when where who which what of in on at by for from to "
    "with into onto about over under after before between through during without upon my your his her its our their "
    "this these those no not is are was were be been has have had do does did will would can could shall should may "
    "might must i you he she it we they mister missus doctor"
)
CLINGING = frozenset(_CLINGING.split())


@dataclass(frozen=True)
class SubtitleConfig:
    """Lengths in characters, times in seconds, speed in characters a second."""

    line_length: int = 42
    reading_speed: float = 20.0
    shortest: float = 5 / 6
    longest: float = 7.0
    gap: float = 2 * FRAME
    extension: float = 12 * FRAME


@dataclass(frozen=True)
class Cue:
    """One subtitle: one or two lines, times in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def make_cues(words: Sequence[Word], config: SubtitleConfig | None = None) -> list[Cue]:
    """Subtitles for all words, in order and without overlap; words must be in order of time.

    The division with the least total cost, found from the first word on: subtitles like to be few, to begin after
    pauses, to hold no pause, and to stand long enough to be read.
    """
    config = config or SubtitleConfig()
    ends_at = [0.0] + [math.inf] * len(words)  # least cost of the first n words
    begins = [0] * (len(words) + 1)  # where the last subtitle of that division begins
    for begin in range(len(words)):
        length = -1
        for end in range(begin + 1, len(words) + 1):
            length += 1 + len(words[end - 1].text)
            duration = words[end - 1].end - words[begin].start
            several = end - begin > 1
            if several and (duration > config.longest or not _fits(words[begin:end], length, config)):
                break
            cost = ends_at[begin] + _cost(words, begin, end, length, config)
            if cost < ends_at[end]:
                ends_at[end], begins[end] = cost, begin
    bounds = [len(words)]
    while bounds[-1] > 0:
        bounds.append(begins[bounds[-1]])
    bounds.reverse()
    cues: list[Cue] = []
    for begin, end in pairwise(bounds):
        lines = break_lines([word.text for word in words[begin:end]], config.line_length)
        start = max(words[begin].start, cues[-1].end if cues else 0.0)
        last = max(_end(words, begin, end, sum(map(len, lines)), config), start + 0.001)
        cues.append(Cue(start, last, lines))
    return cues


def _end(words: Sequence[Word], begin: int, end: int, length: int, config: SubtitleConfig) -> float:
    """When a subtitle of ``words[begin:end]`` leaves: as late as reading asks for and the next one lets it."""
    start, spoken = words[begin].start, words[end - 1].end
    wanted = min(start + length / config.reading_speed, spoken + config.extension)
    wanted = max(spoken, wanted, start + config.shortest)
    following = words[end].start - config.gap if end < len(words) else math.inf
    return min(wanted, following)


def _cost(words: Sequence[Word], begin: int, end: int, length: int, config: SubtitleConfig) -> float:
    """How bad a subtitle of ``words[begin:end]`` is; 1 for being one more, the rest in proportion to that."""
    cost = 1.0
    for before, after in pairwise(words[begin:end]):
        cost += 2.0 * max(0.0, after.start - before.end - 0.4)  # a pause inside
    if end < len(words):
        pause = words[end].start - words[end - 1].end
        cost += 1.0 - min(1.0, pause / 0.4)  # no pause after it
        cost += 0.5 * (words[end - 1].text in CLINGING)
    shown = max(0.001, _end(words, begin, end, length, config) - words[begin].start)
    cost += 2.0 * max(0.0, length / shown / config.reading_speed - 1.0)
    cost += 2.0 * max(0.0, 1.0 - shown / config.shortest)
    return cost


def _fits(words: Sequence[Word], length: int, config: SubtitleConfig) -> bool:
    """Whether words whose text is ``length`` characters long go on two lines."""
    limit = config.line_length
    if length <= limit:
        return True
    if length > 2 * limit + 1:
        return False
    first = -1
    for word in words:
        first += 1 + len(word.text)
        if first > limit:
            return False
        if length - first - 1 <= limit:
            return True
    return False


def break_lines(words: Sequence[str], limit: int) -> tuple[str, ...]:
    """One line if the words fit, else two: of like length, and not broken after a word that belongs to the next."""
    whole = " ".join(words)
    if len(whole) <= limit or len(words) < 2:
        return (whole,)
    best = math.inf
    lines: tuple[str, ...] = (whole,)
    for at in range(1, len(words)):
        first, second = " ".join(words[:at]), " ".join(words[at:])
        too_long = max(0, len(first) - limit) + max(0, len(second) - limit)
        cost = 1000 * too_long + abs(len(first) - len(second)) + 12 * (words[at - 1] in CLINGING)
        if cost < best:
            best, lines = cost, (first, second)
    return lines
