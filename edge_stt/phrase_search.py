"""The best path of CTC outputs through an acceptor: a Viterbi search over all its nodes at once, in numpy.

A node is either *in its unit* or *in the blank* after it, as CTC has it. What a frame costs depends on the number of
nodes alone, not on what is heard. Only how nodes were reached is kept, in bits, to find the way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .acceptor import Acceptor
from .decoding import DecodedToken, LogProbs
from .units import BLANK, SEPARATOR
from .word_graph import Label

IMPOSSIBLE = -1e30  # a log-probability that stays finite in sums

Scores = npt.NDArray[np.float32]


class _Steps(NamedTuple):
    """How nodes were reached, frame by frame.

    Bits, uint8 ``[frames, nodes / 8]``: ``from_blank``, whether a node's better half before the frame was its blank;
    ``entered``, whether its unit was entered in the frame. ``word_end``, int32 ``[frames, states]``: through which
    word end the separator of a state was entered, -1 where from its own blank. ``log_probs``: what was heard.
    """

    from_blank: npt.NDArray[np.uint8]
    entered: npt.NDArray[np.uint8]
    word_end: npt.NDArray[np.int32]
    log_probs: LogProbs


@dataclass(frozen=True)
class Trellis:
    """A search after some frames: scores of all nodes, float32 ``[nodes]``, and the way there. Never changed."""

    in_unit: Scores
    in_blank: Scores
    steps: tuple[_Steps, ...] = ()

    @property
    def frames(self) -> int:
        """How many frames it has seen."""
        return sum(len(steps.log_probs) for steps in self.steps)

    @property
    def log_probs(self) -> LogProbs:
        """What was heard, float32 ``[frames, units]``."""
        if not self.steps:
            return np.empty((0, 0), np.float32)
        return np.concatenate([steps.log_probs for steps in self.steps])


@dataclass(frozen=True)
class PathWord:
    """A word on a path: its label and its units with their frames."""

    label: Label
    tokens: tuple[DecodedToken, ...]


@dataclass(frozen=True)
class BestPath:
    """A way through the acceptor: log-probability (natural), units, and words; separators are left out.

    ``tokens`` are those of all words, and of a last one that has only begun.
    """

    score: float
    tokens: tuple[DecodedToken, ...]
    words: tuple[PathWord, ...]


class PhraseSearch:
    """A search through one acceptor.

    ``separator_penalty``: a separator may also be a blank, as if its log-probability were the blank's less this.
    """

    def __init__(self, acceptor: Acceptor, separator_penalty: float) -> None:
        self.acceptor, self.separator_penalty = acceptor, np.float32(separator_penalty)
        self._repeated_parent = acceptor.parent[acceptor.repeated - acceptor.states]
        self._repeats = np.zeros(acceptor.nodes, np.bool_)
        self._repeats[acceptor.repeated] = True
        self._final_ends = np.flatnonzero(acceptor.final[acceptor.end_state])

    def start(self) -> Trellis:
        """Before the first frame: in the blank of the first separator."""
        in_blank = np.full(self.acceptor.nodes, IMPOSSIBLE, np.float32)
        in_blank[0] = 0.0
        return Trellis(np.full(self.acceptor.nodes, IMPOSSIBLE, np.float32), in_blank)

    def advance(self, trellis: Trellis, log_probs: LogProbs) -> Trellis:
        """The search after further frames, float32 ``[frames, units]``, finite."""
        acceptor = self.acceptor
        states, count = acceptor.states, len(log_probs)
        if not count:
            return trellis
        in_unit, in_blank = trellis.in_unit, trellis.in_blank
        bits = (count, (acceptor.nodes + 7) // 8)
        steps = _Steps(
            np.empty(bits, np.uint8), np.empty(bits, np.uint8), np.full((count, states), -1, np.int32), log_probs
        )
        separators = np.maximum(log_probs[:, SEPARATOR], log_probs[:, BLANK] - self.separator_penalty)
        ways = np.full(acceptor.nodes, IMPOSSIBLE, np.float32)
        for t, row in enumerate(log_probs):
            both = np.maximum(in_unit, in_blank)
            at_ends = both[acceptor.end_node]
            if states > 1:
                ways[1:states] = np.maximum.reduceat(at_ends, acceptor.end_first)
            ways[0] = IMPOSSIBLE
            np.maximum(ways[:states], in_blank[:states], out=ways[:states])  # separators may be repeated
            ways[states:] = both[acceptor.parent]
            ways[acceptor.repeated] = in_blank[self._repeated_parent]
            alive = np.flatnonzero((at_ends >= ways[acceptor.end_state]) & (at_ends > IMPOSSIBLE / 2))
            steps.word_end[t, acceptor.end_state[alive]] = alive
            steps.from_blank[t] = np.packbits(in_blank > in_unit)
            steps.entered[t] = np.packbits(ways > in_unit)
            emitted = row[acceptor.unit]
            emitted[:states] = separators[t]
            in_unit = np.maximum(np.maximum(in_unit, ways) + emitted, IMPOSSIBLE)
            in_blank = np.maximum(both + row[BLANK], IMPOSSIBLE)
        return Trellis(in_unit, in_blank, (*trellis.steps, steps))

    def best(self, trellis: Trellis) -> BestPath | None:
        """The best whole phrase; None when no phrase is as short as what was heard."""
        both = np.maximum(trellis.in_unit, trellis.in_blank)
        separators = np.where(self.acceptor.final, both[: self.acceptor.states], IMPOSSIBLE)
        ends = both[self.acceptor.end_node[self._final_ends]]
        separator, end = int(separators.argmax()), int(ends.argmax())
        if max(separators[separator], ends[end]) <= IMPOSSIBLE / 2:
            return None
        if separators[separator] >= ends[end]:
            return self._trace(trellis, separator, None)
        last = int(self._final_ends[end])
        return self._trace(trellis, int(self.acceptor.end_node[last]), last)

    def best_beginning(self, trellis: Trellis) -> BestPath:
        """The best path to anywhere; a word that has only begun is left out, its units' scores are not."""
        node = int(np.maximum(trellis.in_unit, trellis.in_blank).argmax())
        return self._trace(trellis, node, None)

    def _trace(self, trellis: Trellis, node: int, end: int | None) -> BestPath:
        """The path to a node, whose last word went through word end ``end``, if it has just ended."""
        acceptor = self.acceptor
        log_probs = trellis.log_probs
        in_blank = bool(trellis.in_blank[node] > trellis.in_unit[node])
        score = float(max(trellis.in_blank[node], trellis.in_unit[node]))
        words: list[PathWord] = []
        tokens: list[DecodedToken] = []
        spoken: list[DecodedToken] = []
        label = acceptor.labels[acceptor.end_label[end]] if end is not None else None
        time = trellis.frames
        until = time  # where the unit at hand ends
        for steps in reversed(trellis.steps):
            for t in range(len(steps.log_probs) - 1, -1, -1):
                time -= 1
                if in_blank:
                    in_blank = _bit(steps.from_blank[t], node)
                    until = time
                    continue
                if not _bit(steps.entered[t], node):
                    continue
                before = int(acceptor.parent[node - acceptor.states]) if node >= acceptor.states else -1
                if before >= 0:
                    unit = int(acceptor.unit[node])
                    tokens.append(DecodedToken(unit, time, until, float(np.exp(log_probs[time:until, unit]).mean())))
                    in_blank = bool(self._repeats[node]) or _bit(steps.from_blank[t], before)
                    if before < acceptor.states:  # the first unit of a word
                        if label is not None:
                            words.append(PathWord(label, tuple(reversed(tokens))))
                        spoken += tokens
                        tokens = []
                else:
                    end = int(steps.word_end[t, node])
                    if end < 0:  # it was in this separator's blank
                        in_blank = True
                        continue
                    label, before = acceptor.labels[acceptor.end_label[end]], int(acceptor.end_node[end])
                    in_blank = _bit(steps.from_blank[t], before)
                node, until = before, time
        return BestPath(score, tuple(reversed(spoken)), tuple(reversed(words)))


def _bit(row: npt.NDArray[np.uint8], index: int) -> bool:
    return bool(row[index >> 3] >> (7 - (index & 7)) & 1)
