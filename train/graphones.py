"""Graphones: letters aligned with phonemes by expectation maximisation, and the n-gram over the aligned pairs.

Steps of M. Bisani and H. Ney, "Joint-sequence models for grapheme-to-phoneme conversion", Speech Communication 50,
2008. `train.pronunciation` uses them on CMUdict; `edge_stt.pronunciation` decodes with the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_stt.pronunciation import BACKOFF_ZERO, LOG_STEP, START, GraphoneModel, Phonemes

Lexicon = Mapping[str, Sequence[Phonemes]]
Graphone = tuple[str, Phonemes]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GraphoneSettings:
    """What the model is made of. ``shapes`` are the (letters, phonemes) a graphone may pair."""

    shapes: tuple[tuple[int, int], ...] = ((1, 0), (1, 1), (1, 2), (2, 1))
    iterations: int = 8
    min_count: int = 3  # words that need a rarer graphone become exceptions
    order: int = 7
    prune: float = 1e-7  # n-grams that change the model's relative entropy by less are dropped


class _Aligner:
    """Expectation maximisation over all segmentations of (word, phonemes) into graphones, as a unigram of graphones.

    Pairs of one (number of letters, number of phonemes) go through the dynamic programme together, as vectors.
    """

    def __init__(self, pairs: Sequence[tuple[str, Phonemes]], settings: GraphoneSettings) -> None:
        self.pairs, self.settings = pairs, settings
        self.letters = ["", *sorted({c for word, _ in pairs for c in word})]
        self.phonemes = ["", *sorted({p for _, phonemes in pairs for p in phonemes})]
        letter_id = {c: i for i, c in enumerate(self.letters)}
        phoneme_id = {p: i for i, p in enumerate(self.phonemes)}
        shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (word, phonemes) in enumerate(pairs):
            shapes[len(word), len(phonemes)].append(i)
        self.groups = []
        for shape, members in sorted(shapes.items()):
            # Padded with id 0, the empty symbol, so that a slice over the end is harmless.
            grid = np.array([[letter_id[c] for c in pairs[i][0]] + [0] for i in members], np.int64)
            sounds = np.array([[phoneme_id[p] for p in pairs[i][1]] + [0] for i in members], np.int64)
            self.groups.append((shape, np.array(members), grid, sounds))
        self.size = len(self.letters) ** 2 * len(self.phonemes) ** 2

    def _keys(self, grid: Ints, sounds: Ints, at: tuple[int, int], shape: tuple[int, int]) -> Ints:
        """Dense index of the graphone of ``shape`` that starts at (letter, phoneme) ``at``, for each pair."""
        (i, j), (a, b) = at, shape
        zero = np.zeros(len(grid), np.int64)
        ls, ps = len(self.letters), len(self.phonemes)
        key = grid[:, i] * ls + (grid[:, i + 1] if a > 1 else zero)
        return (key * ps + (sounds[:, j] if b else zero)) * ps + (sounds[:, j + 1] if b > 1 else zero)

    def _moves(self, shape: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """(i, j, a, b): the moves that lie on some path from (0, 0) to ``shape``, in topological order."""
        n, m = shape
        steps = self.settings.shapes
        ahead = {(0, 0)}
        for i in range(n + 1):
            for j in range(m + 1):
                if (i, j) in ahead:
                    ahead |= {(i + a, j + b) for a, b in steps if i + a <= n and j + b <= m}
        useful = {(n, m)}
        moves = []
        for i in range(n, -1, -1):
            for j in range(m, -1, -1):
                for a, b in steps:
                    if (i, j) in ahead and (i + a, j + b) in useful:
                        useful.add((i, j))
                        moves.append((i, j, a, b))
        return sorted(moves)

    def estimate(self) -> Floats:
        """Probabilities of all graphones, dense, after the set number of iterations."""
        probability = np.ones(self.size)
        for _ in range(self.settings.iterations):
            counts = np.zeros(self.size)
            for shape, _, grid, sounds in self.groups:
                keys, posterior = self._posteriors(shape, grid, sounds, probability)
                if keys:
                    used, inverse = np.unique(np.concatenate(keys), return_inverse=True)
                    counts[used] += np.bincount(inverse, np.concatenate(posterior))
            probability = counts / counts.sum()
        return probability

    def _posteriors(
        self, shape: tuple[int, int], grid: Ints, sounds: Ints, probability: Floats
    ) -> tuple[list[Ints], list[Floats]]:
        moves = self._moves(shape)
        if not moves:
            return [], []
        n, m = shape
        keys = [self._keys(grid, sounds, (i, j), (a, b)) for i, j, a, b in moves]
        weights = [probability[key] for key in keys]
        forward = np.zeros((n + 1, m + 1, len(grid)))
        backward = np.zeros((n + 1, m + 1, len(grid)))
        forward[0, 0], backward[n, m] = 1.0, 1.0
        for (i, j, a, b), weight in zip(moves, weights, strict=True):
            forward[i + a, j + b] += forward[i, j] * weight
        for (i, j, a, b), weight in zip(reversed(moves), reversed(weights), strict=True):
            backward[i, j] += backward[i + a, j + b] * weight
        total = np.maximum(forward[n, m], 1e-290)
        posterior = [
            forward[i, j] * weight * backward[i + a, j + b] / total
            for (i, j, a, b), weight in zip(moves, weights, strict=True)
        ]
        return keys, posterior

    def align(self, probability: Floats) -> list[list[Graphone] | None]:
        """The most probable segmentation of each pair; None where the shapes allow none."""
        out: list[list[Graphone] | None] = [None] * len(self.pairs)
        log_probability = np.log(np.maximum(probability, 1e-300))
        for (n, m), members, grid, sounds in self.groups:
            moves = self._moves((n, m))
            if not moves:
                continue
            score = np.full((n + 1, m + 1, len(grid)), -np.inf)
            score[0, 0] = 0.0
            back = np.zeros((n + 1, m + 1, len(grid)), np.int8)
            for i, j, a, b in moves:
                new = score[i, j] + log_probability[self._keys(grid, sounds, (i, j), (a, b))]
                better = new > score[i + a, j + b]
                score[i + a, j + b][better] = new[better]
                back[i + a, j + b][better] = self.settings.shapes.index((a, b))
            for row, member in enumerate(members):
                word, phonemes = self.pairs[member]
                i, j, path = n, m, []
                while i:
                    a, b = self.settings.shapes[back[i, j, row]]
                    path.append((word[i - a : i], phonemes[j - b : j]))
                    i, j = i - a, j - b
                out[member] = path[::-1]
        return out


def align(
    pairs: Sequence[tuple[str, Phonemes]], settings: GraphoneSettings = GraphoneSettings()
) -> list[list[Graphone] | None]:
    """Segment each (word, phonemes) into graphones learned from all of them; None where no segmentation exists.

    Unigram expectation maximisation, as the first step of Bisani and Ney 2008 (section 3) and of Phonetisaurus
    (Novak et al., "WFST-based grapheme-to-phoneme conversion", FSMNLP 2012).
    """
    aligner = _Aligner(pairs, settings)
    return aligner.align(aligner.estimate())


@dataclass
class _Level:
    """All n-grams of one length, sorted by (parent, token): ``parent`` and ``suffix`` index the level below."""

    parent: Ints
    token: Ints
    suffix: Ints
    count: Ints
    log_prob: Floats
    log_backoff: Floats


def _count(sequences: Sequence[Sequence[int]], vocabulary: int, order: int) -> list[_Level]:
    """n-gram counts of all lengths up to ``order`` within the sequences."""
    tokens = np.concatenate([np.asarray(s, np.int64) for s in sequences])
    place = np.concatenate([np.arange(len(s)) for s in sequences])  # within its sequence
    levels: list[_Level] = []
    before = np.zeros(len(tokens), np.int64)  # id of the (n-1)-gram that ends at each place
    for n in range(order):
        ends = np.flatnonzero(place >= n)
        history = before[ends - 1] if n else np.zeros(len(ends), np.int64)
        unique, index, inverse, count = np.unique(
            history * vocabulary + tokens[ends], return_index=True, return_inverse=True, return_counts=True
        )
        suffix = before[ends[index]] if n else np.zeros(len(unique), np.int64)
        zeros = np.zeros(len(unique))
        levels.append(_Level(unique // vocabulary, unique % vocabulary, suffix, count, zeros, zeros))
        before = np.zeros(len(tokens), np.int64)
        before[ends] = inverse
    return levels


def _estimate(levels: list[_Level], vocabulary: int) -> None:
    """Interpolated modified Kneser-Ney (Chen and Goodman 1998) in place."""
    below: Floats = np.full(1, 1.0 / (vocabulary - 1))
    for n, level in enumerate(levels):
        # Shorter n-grams count the different graphones before them; those at a word's start have nothing before.
        count = level.count.astype(np.float64)
        if n + 1 < len(levels):
            kinds = np.bincount(levels[n + 1].suffix, minlength=len(count))
            count = np.where(kinds > 0, kinds, count)
        if n == 0:
            count[level.token == START] = 0  # the start is given, never predicted
        of = [max(1, int((count == c).sum())) for c in range(1, 5)]
        y = of[0] / (of[0] + 2 * of[1])
        discounts = np.array([0.0, *(c - (c + 1) * y * of[c] / of[c - 1] for c in range(1, 4))])
        discounts = np.clip(discounts, [0, 0.1, 0.2, 0.3], [0, 0.95, 1.9, 2.9])
        discount = discounts[np.minimum(count, 3).astype(np.int64)]
        contexts = len(levels[n - 1].token) if n else 1
        total = np.maximum(np.bincount(level.parent, count, contexts), 1e-300)
        gamma = np.bincount(level.parent, discount, contexts) / total
        probability = (count - discount) / total[level.parent] + gamma[level.parent] * (
            below[level.suffix] if n else below[0]
        )
        level.log_prob = np.log(np.maximum(probability, 1e-7))
        if n:
            levels[n - 1].log_backoff = np.log(np.where(gamma > 0, gamma, 1.0))
        below = probability


def _prune(levels: list[_Level], threshold: float) -> list[npt.NDArray[np.bool_]]:
    """Which n-grams to keep: relative-entropy pruning (Stolcke 1998), histories weighed by their plain counts.

    Kept n-grams keep their prefixes and suffixes, which the device's tree relies on.
    """
    words = float(levels[0].count.sum())
    keep = [np.zeros(len(level.token), bool) for level in levels]
    keep[0][:] = True
    for n in range(len(levels) - 1, 0, -1):
        level, lower = levels[n], levels[n - 1]
        p, p_low = np.exp(level.log_prob), np.exp(lower.log_prob[level.suffix])
        contexts = len(lower.token)
        left = np.maximum(1 - np.bincount(level.parent, p, contexts), 1e-9)[level.parent]
        left_low = np.maximum(1 - np.bincount(level.parent, p_low, contexts), 1e-9)[level.parent]
        backoff = np.log(left) - np.log(left_low)
        backoff_after = np.log(left + p) - np.log(left_low + p_low)
        change = p * (np.log(p_low) + backoff_after - level.log_prob) + left * (backoff_after - backoff)
        keep[n] |= -(lower.count[level.parent] / words) * change > threshold
        keep[n - 1][level.parent[keep[n]]] = True
        keep[n - 1][level.suffix[keep[n]]] = True
    return keep


def _to_model(
    levels: list[_Level], keep: list[npt.NDArray[np.bool_]], graphones: tuple[Graphone, ...], exceptions: Lexicon
) -> GraphoneModel:
    """Back-off weights anew for what is kept, and everything in the device's form."""
    children = [np.array([keep[0].sum()])]
    log_probs, backoffs = [], []
    actual = levels[0].log_prob  # of all n-grams of the level under the pruned model
    for n, level in enumerate(levels):
        if n:
            lower = levels[n - 1]
            kept = np.flatnonzero(keep[n])
            contexts = len(lower.token)
            parents = level.parent[kept]
            left = 1 - np.bincount(parents, np.exp(level.log_prob[kept]), contexts)
            left_low = 1 - np.bincount(parents, np.exp(actual[level.suffix[kept]]), contexts)
            has_children = np.bincount(parents, minlength=contexts)
            backoff = np.where(has_children > 0, np.log(np.maximum(left, 1e-6) / np.maximum(left_low, 1e-6)), 0.0)
            actual = np.where(keep[n], level.log_prob, backoff[level.parent] + actual[level.suffix])
            backoffs.append(backoff[keep[n - 1]])
            children.append(has_children[keep[n - 1]])
        log_probs.append(level.log_prob[keep[n]])
    last = int(keep[-1].sum())
    children.append(np.zeros(last, np.int64))
    backoffs.append(np.zeros(last))
    costs = np.clip(np.rint(-np.concatenate(log_probs) / LOG_STEP), 0, 255)
    weights = np.clip(np.rint(BACKOFF_ZERO - np.concatenate(backoffs) / LOG_STEP), 0, 255)
    return GraphoneModel(
        graphones,
        tuple(int(k.sum()) for k in keep),
        np.concatenate([level.token[k] for level, k in zip(levels, keep, strict=True)]).astype(np.uint16),
        np.concatenate(children).astype(np.uint16),
        costs.astype(np.uint8),
        weights.astype(np.uint8),
        exceptions,
    )


def build_model(
    sequences: Sequence[Sequence[int]], graphones: tuple[Graphone, ...], exceptions: Lexicon, settings: GraphoneSettings
) -> GraphoneModel:
    """The pruned n-gram of sequences of graphone ids, each from START to END, for the device."""
    levels = _count(sequences, len(graphones), settings.order)
    _estimate(levels, len(graphones))
    return _to_model(levels, _prune(levels, settings.prune), graphones, exceptions)
