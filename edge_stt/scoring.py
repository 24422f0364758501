"""Word and character error rates: alignment, counts, and what chance could have made of them.

Alignment is jiwer's (minimal edit distance; a device has no jiwer, and counts edits alone); the intervals are those of
M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004: whole
speakers are drawn with replacement, because the errors of one speaker are not independent. With fewer than
`MIN_SPEAKERS` known speakers clips are drawn instead, which says less about speakers not heard.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RuntimeMissingError

BOOTSTRAP_DRAWS = 2_000
MIN_SPEAKERS = 5
MIN_GROUPS = 5  # drawn speakers or clips, for a difference to be more than chance: of one clip all draws are the same
# What `edge_stt.corpora` calls a speaker whom the corpus does not name, and `edge_stt.benchmark` numbers by clip.
_UNNAMED = re.compile(r"(?:^|/)(?:unknown(?:-\d+)?)?$")


@dataclass(frozen=True)
class Counts:
    """Units of the reference, and the edits that make the hypothesis of it."""

    units: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.units + other.units,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class ClipScore:
    """The counts of one clip; texts are normalised."""

    id: str
    speaker: str
    reference: str
    hypothesis: str
    words: Counts
    characters: Counts


@dataclass(frozen=True)
class Interval:
    """A rate in percent with its 95 % interval, None when there is one clip alone.

    ``drawn``: speakers, clips, or both where some speakers are unknown.
    """

    rate: float
    low: float | None
    high: float | None
    drawn: str


@dataclass(frozen=True)
class Difference:
    """New minus old rate on the same clips, in points, with its 95 % interval.

    ``probability_worse`` is the share of the draws in which the new one is worse (the paper's "probability of
    improvement", turned round); ties count half. ``groups`` is how many speakers or clips were drawn from.
    """

    points: float
    low: float
    high: float
    probability_worse: float
    drawn: str
    groups: int = MIN_GROUPS

    @property
    def too_few(self) -> bool:
        """Whether there are too few speakers or clips to tell a difference from chance."""
        return self.groups < MIN_GROUPS

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero, and there is enough behind it."""
        return not self.too_few and (self.low > 0.0 or self.high < 0.0)


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise RuntimeMissingError("error rates need jiwer: pip install 'edge-stt[bench]'") from error
    return jiwer


def require_jiwer() -> None:
    """Raise `RuntimeMissingError` at once rather than after an hour of measuring."""
    _jiwer()


def count_edits(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """The fewest edits from one sequence of units (none with a space inside) to the other.

    Without jiwer the edits are as many, but may be divided otherwise among their kinds.
    """
    if not reference or not hypothesis:  # jiwer refuses an empty reference
        return Counts(len(reference), 0, len(reference), len(hypothesis))
    if find_spec("jiwer") is None:
        return _count_alone(reference, hypothesis)
    out = _jiwer().process_words(" ".join(reference), " ".join(hypothesis))
    return Counts(len(reference), out.substitutions, out.deletions, out.insertions)


def _count_alone(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """Levenshtein's distance, row by row: of each cell (edits, substitutions, deletions, insertions)."""
    row = [(j, 0, 0, j) for j in range(len(hypothesis) + 1)]
    for i, unit in enumerate(reference, 1):
        above, row = row, [(i, 0, i, 0)]
        for j, other in enumerate(hypothesis, 1):
            edits, *kinds = above[j - 1]
            same = unit == other
            diagonal = (edits + (not same), kinds[0] + (not same), kinds[1], kinds[2])
            deletion = (above[j][0] + 1, above[j][1], above[j][2] + 1, above[j][3])
            insertion = (row[-1][0] + 1, row[-1][1], row[-1][2], row[-1][3] + 1)
            row.append(min(diagonal, deletion, insertion))
    _, substitutions, deletions, insertions = row[-1]
    return Counts(len(reference), substitutions, deletions, insertions)


def edits(reference: list[str], hypothesis: list[str]) -> tuple[int, int]:
    """Length of the reference, and the number of edits."""
    counts = count_edits(reference, hypothesis)
    return counts.units, counts.errors


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Pairs of units: equal or substituted; (unit, None) is deleted, (None, unit) inserted."""
    if not reference or not hypothesis:
        return [*((unit, None) for unit in reference), *((None, unit) for unit in hypothesis)]
    pairs: list[tuple[str | None, str | None]] = []
    for chunk in _jiwer().process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]:
        left = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            pairs += [(unit, None) for unit in left]
        elif chunk.type == "insert":
            pairs += [(None, unit) for unit in right]
        else:
            pairs += zip(left, right, strict=True)
    return pairs


def score_clip(clip_id: str, speaker: str, reference: str, hypothesis: str) -> ClipScore:
    """Count the edits of words and of characters (spaces are characters too) between two normalised texts."""
    words = count_edits(reference.split(), hypothesis.split())
    characters = count_edits(*(["_" if c == " " else c for c in text] for text in (reference, hypothesis)))
    return ClipScore(clip_id, speaker, reference, hypothesis, words, characters)


def total(counts: Sequence[Counts]) -> Counts:
    """The sum over clips: corpus-level rates divide sums, they do not average rates."""
    return sum(counts, Counts())


def percent(counts: Counts) -> float:
    """Errors per unit of the reference, in percent; may exceed 100."""
    return 100.0 * counts.errors / max(1, counts.units)


def _groups(speakers: Sequence[str]) -> tuple[npt.NDArray[np.intp], int, str]:
    """For each clip the group that is drawn with it, the number of groups, and what a group is."""
    # Somebody unknown may be anybody: such a clip is a group of its own.
    names = [f"\0{i}" if _UNNAMED.search(speaker) else speaker for i, speaker in enumerate(speakers)]
    groups = sorted(set(names))
    unnamed = sum(name.startswith("\0") for name in groups)
    if len(groups) - unnamed < MIN_SPEAKERS:
        return np.arange(len(speakers)), len(speakers), "clips"
    index = {name: i for i, name in enumerate(groups)}
    return np.array([index[name] for name in names]), len(groups), "speakers and clips" if unnamed else "speakers"


def _draw(speakers: Sequence[str], *columns: Sequence[float]) -> tuple[list[npt.NDArray[np.float64]], int, str]:
    """Bootstrap sums ``[draws]`` of each column, the same groups drawn for all; how many groups, and what they are."""
    group, count, drawn = _groups(speakers)
    sums = [np.bincount(group, weights=np.asarray(column, np.float64), minlength=count) for column in columns]
    rng = np.random.default_rng(0)
    out: list[list[npt.NDArray[np.float64]]] = [[] for _ in columns]
    for _ in range(0, BOOTSTRAP_DRAWS, 100):  # in parts, to bound memory on sets of many clips
        chosen = rng.integers(count, size=(100, count))
        for column, values in zip(out, sums, strict=True):
            column.append(values[chosen].sum(axis=1))
    return [np.concatenate(column) for column in out], count, drawn


def interval(clips: Sequence[ClipScore], unit: str = "words") -> Interval:
    """The corpus-level rate of ``words`` or ``characters`` with its bootstrap interval."""
    counts = [getattr(clip, unit) for clip in clips]
    (errors, units), _, drawn = _draw([c.speaker for c in clips], [c.errors for c in counts], [c.units for c in counts])
    if len(clips) < 2:
        return Interval(percent(total(counts)), None, None, drawn)
    low, high = np.percentile(100.0 * errors / np.maximum(1.0, units), [2.5, 97.5])
    return Interval(percent(total(counts)), float(low), float(high), drawn)


def compare(old: Sequence[ClipScore], new: Sequence[ClipScore], unit: str = "words") -> Difference:
    """Paired bootstrap of two systems on the same clips in the same order: the draws are common to both."""
    assert [c.id for c in old] == [c.id for c in new]
    before, after = ([getattr(clip, unit) for clip in clips] for clips in (old, new))
    changes = [b.errors - a.errors for a, b in zip(before, after, strict=True)]
    (change, units), groups, drawn = _draw([c.speaker for c in new], changes, [c.units for c in after])
    points = 100.0 * change / np.maximum(1.0, units)
    low, high = np.percentile(points, [2.5, 97.5])
    worse = float((points > 0).mean() + 0.5 * (points == 0).mean())
    rate = 100.0 * sum(changes) / max(1, sum(c.units for c in after))
    return Difference(rate, float(low), float(high), worse, drawn, groups)


def compare_times(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the sums of two series of seconds on the same clips, with its 95 % interval (clips drawn, paired).

    With fewer than `MIN_GROUPS` clips the interval says little, with one nothing.
    """
    (before, after), _, _ = _draw([""] * len(old), old, new)
    low, high = np.percentile(after / np.maximum(before, 1e-12), [2.5, 97.5])
    return float(sum(new) / max(sum(old), 1e-12)), float(low), float(high)
