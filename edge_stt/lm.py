"""Word n-gram language models with back-off, scored in pure Python.

A model is a trie laid out in arrays, one level an order: the n-grams that extend one context lie side by side, sorted
by their last word, and a context knows where its extensions begin (B. Raj & E. Whittaker, "Lossless compression of
language model structure and word identifiers", ICASSP 2003; K. Heafield, "KenLM: faster and smaller language model
queries", WMT 2011, section 3.2). The arrays may lie in a mapped file: see `edge_stt.lm_file`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import DecodingError

UNKNOWN, SENTENCE_START, SENTENCE_END = "<unk>", "<s>", "</s>"
SPECIAL_WORDS = (UNKNOWN, SENTENCE_START, SENTENCE_END)
MAX_ORDER = 10
SCORE_CACHE, CONTEXT_CACHE = 1 << 14, 1 << 13  # entries, least recently used first to go; 15 MB when full

State = tuple[int, ...]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of one order n, as readers, writers and the trainer exchange them.

    ``words``: uint32 ``[count, n]``, word ids, oldest first; ``log_probs`` and ``backoffs``: float32 ``[count]``,
    natural logarithms (a back-off weight of 0 where there is none).
    """

    words: Array
    log_probs: Array
    backoffs: Array


class NgramError(ValueError):
    """N-gram ``row`` of order ``order`` cannot be placed: it is there twice, or its context is missing."""

    def __init__(self, order: int, row: int, reason: str) -> None:
        super().__init__(f"{order}-gram {row}: {reason}")
        self.order, self.row, self.reason = order, row, reason


class Level(NamedTuple):
    """One order of the trie. N-gram i ends in ``words[i]`` and is extended by ``first_child[i]:first_child[i + 1]``.

    Its natural log-probability is ``log_probs[log_prob_codes[i]]``; so for back-offs. The sequences are memoryviews,
    whose elements cost a third of a numpy array's, or ranges where index and value are the same. The highest order has
    an empty ``first_child``.
    """

    words: Sequence[int]
    log_prob_codes: Sequence[int]
    log_probs: Sequence[float]
    backoff_codes: Sequence[int]
    backoffs: Sequence[float]
    first_child: Sequence[int]


class _Context(NamedTuple):
    """A history in the model: its number of words, and its extensions, at ``low:high`` of the next level."""

    length: int
    words: Sequence[int]
    codes: Sequence[int]
    log_probs: Sequence[float]
    low: int
    high: int
    backoff: float


class LanguageModel:
    """A back-off n-gram model. Made by `load`, by `from_ngrams` or by `edge_stt.lm_build.build`.

    ``order``: the longest n-gram. ``vocabulary``: word id → word; holds ``<unk>``, ``<s>`` and ``</s>``.
    A state is the tuple of word ids, most recent last, that coming scores can depend on. It is never longer than
    needed, so that histories with equal futures have equal states and a beam search can merge them.
    """

    def __init__(self, vocabulary: Sequence[str], levels: Sequence[Level], source: str = "language model") -> None:
        """``source`` names the model in errors. Raises `DecodingError` for a vocabulary that cannot be."""
        self.order = len(levels)
        self.vocabulary = vocabulary
        self.levels = levels
        self._ids = {word: i for i, word in enumerate(vocabulary)}
        if len(self._ids) != len(vocabulary):
            raise DecodingError(f"{source}: the vocabulary has a word twice")
        for word in SPECIAL_WORDS:
            if word not in self._ids:
                raise DecodingError(f"{source}: the vocabulary lacks {word}, which a decoder needs")
        self.unknown_id, self.start_id, self.end_id = (self._ids[word] for word in SPECIAL_WORDS)
        self._cached_score = lru_cache(SCORE_CACHE)(self._score)
        self._contexts = lru_cache(CONTEXT_CACHE)(self._find_contexts)
        self._start_state = self._shortest((self.start_id,))

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of n-grams of each order, from 1."""
        return tuple(len(level.words) for level in self.levels)

    def word_id(self, word: str) -> int:
        """The word's id, or that of ``<unk>``."""
        return self._ids.get(word, self.unknown_id)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def start_state(self) -> State:
        """The state at the beginning of a sentence, after ``<s>``."""
        return self._start_state

    def empty_state(self) -> State:
        """The state that knows of no word before."""
        return ()

    def score(self, state: State, word_id: int) -> tuple[float, State]:
        """Natural log-probability of the word in this state, and the state after it. ``</s>`` is a word like others."""
        return self._cached_score(state, word_id)

    def log_prob(self, state: State, word_id: int) -> float:
        """As `score`, without the state after the word, which costs more than the score."""
        total = 0.0
        for _, words, codes, log_probs, low, high, backoff in self._contexts(state):
            i = bisect_left(words, word_id, low, high)
            if i < high and words[i] == word_id:
                return total + log_probs[codes[i]]
            total += backoff
        return total + self.levels[0].log_probs[word_id]

    def score_sentence(self, words: Sequence[str]) -> list[float]:
        """Natural log-probabilities of the words of one sentence and, last, of its end."""
        state, scores = self._start_state, []
        for word_id in [*map(self.word_id, words), self.end_id]:
            score, state = self._cached_score(state, word_id)
            scores.append(score)
        return scores

    def _score(self, state: State, word: int) -> tuple[float, State]:
        log_prob = 0.0
        for length, words, codes, log_probs, low, high, backoff in self._contexts(state):
            i = bisect_left(words, word, low, high)
            if i < high and words[i] == word:
                after = (*state[len(state) - length :], word)
                return log_prob + log_probs[codes[i]], self._shortest(after)
            log_prob += backoff
        return log_prob + self.levels[0].log_probs[word], self._shortest((word,))

    def _shortest(self, history: State) -> State:
        """The history without the oldest words that nothing depends on."""
        if len(history) >= self.order:
            history = history[1:]
        if len(history) > 1:
            # The suffixes that matter are what the next word's score starts from, so this is no extra work.
            contexts = self._contexts(history)
            return history[len(history) - contexts[0].length :] if contexts else ()
        if history:  # most words: worth a short way
            (word,), unigrams = history, self.levels[0]
            if unigrams.first_child[word] < unigrams.first_child[word + 1] or unigrams.backoffs[word]:
                return history
        return ()

    def _find_contexts(self, history: State) -> tuple[_Context, ...]:
        """The suffixes of the history that have extensions or a back-off weight, longest first."""
        found = []
        for start in range(len(history)):
            node = self._node(history[start:])
            if node >= 0:
                length = len(history) - start
                level, below = self.levels[length - 1 : length + 1]
                low, high = level.first_child[node], level.first_child[node + 1]
                backoff = level.backoffs[level.backoff_codes[node]]
                if low < high or backoff:
                    found.append(
                        _Context(length, below.words, below.log_prob_codes, below.log_probs, low, high, backoff)
                    )
        return tuple(found)

    def _node(self, words: State) -> int:
        """Index of an n-gram at its level, or -1."""
        node = words[0]
        for above, level, word in zip(self.levels, self.levels[1:], words[1:], strict=False):
            high = above.first_child[node + 1]
            node = bisect_left(level.words, word, above.first_child[node], high)
            if node == high or level.words[node] != word:
                return -1
        return node

    def ngrams(self, order: int) -> Ngrams:
        """All n-grams of one order, sorted by their words."""
        level = self.levels[order - 1]
        words = np.empty((len(level.words), order), dtype=np.uint32)
        node = np.arange(len(words))
        for column in range(order - 1, -1, -1):
            words[:, column] = np.asarray(self.levels[column].words)[node]
            if column:
                node = np.searchsorted(np.asarray(self.levels[column - 1].first_child), node, side="right") - 1
        log_probs = np.asarray(level.log_probs, np.float32)[np.asarray(level.log_prob_codes, np.intp)]
        if order == self.order:
            return Ngrams(words, log_probs, np.zeros(len(words), np.float32))
        backoffs = np.asarray(level.backoffs, np.float32)[np.asarray(level.backoff_codes, np.intp)]
        return Ngrams(words, log_probs, backoffs)

    @classmethod
    def from_ngrams(
        cls, vocabulary: Sequence[str], orders: Sequence[Ngrams], source: str = "language model"
    ) -> LanguageModel:
        """Build the trie from the n-grams of each order, in any sequence; order 1 holds each word id once.

        Raises `NgramError` for an n-gram that is there twice, or whose first n-1 words are not an n-gram of the model.
        """
        size = np.uint64(len(vocabulary))
        keys: list[Array] = []  # of each order above 1, sorted: index of the context at its level x size + last word
        sorted_orders: list[Ngrams] = []
        children: list[Array] = []
        for order, ngrams in enumerate(orders, 1):
            key = ngrams.words[:, 0].astype(np.uint64)
            for column in range(1, order):
                if column > 1:
                    key = _positions(keys[column - 2], key, order)
                context, key = key, key * size + ngrams.words[:, column]
            by_key = np.argsort(key, kind="stable")
            key = key[by_key]
            twice = np.flatnonzero(key[1:] == key[:-1])
            if len(twice):
                raise NgramError(order, int(by_key[twice[0] + 1]), "is there twice")
            if order > 1:
                keys.append(key)
                children.append(np.bincount(context.astype(np.int64), minlength=len(sorted_orders[-1].words)))
            sorted_orders.append(Ngrams(ngrams.words[by_key], ngrams.log_probs[by_key], ngrams.backoffs[by_key]))
        children.append(np.zeros(0, np.int64))
        return cls(list(vocabulary), [_exact(n, c) for n, c in zip(sorted_orders, children, strict=True)], source)

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """Open our binary form or an ARPA file (plain or gzip), whatever its name.

        Raises `DecodingError`, one line, when it is neither or is damaged.
        """
        from . import lm_arpa, lm_file

        path = Path(path)
        try:
            with path.open("rb") as file:
                start = file.read(64)
        except OSError as error:
            raise DecodingError(f"no language model at {path}: {error.strerror}") from error
        return lm_file.read(path) if start.startswith(lm_file.MAGIC) else lm_arpa.read(path)

    def save(self, path: str | Path) -> None:
        """Write our compact binary form (`edge_stt.lm_file.write`), atomically."""
        from . import lm_file

        lm_file.write(self, Path(path))


def first_children(children: Array) -> Sequence[int]:
    """Number of extensions of each n-gram → where they begin at the next level, uint32 with one more at the end."""
    offsets = np.zeros(len(children) + 1, np.uint32)
    np.cumsum(children, out=offsets[1:])
    return offsets.data


def _exact(ngrams: Ngrams, children: Array) -> Level:
    """A level with every value as it is."""
    count = range(len(ngrams.words))
    words = count if ngrams.words.shape[1] == 1 else np.ascontiguousarray(ngrams.words[:, -1], np.uint32).data
    log_probs, backoffs = (np.ascontiguousarray(v, np.float32).data for v in (ngrams.log_probs, ngrams.backoffs))
    first_child = first_children(children) if len(children) else ()
    return Level(words, count, log_probs, count, backoffs, first_child)


def _positions(keys: Array, wanted: Array, order: int) -> Array:
    """Where each wanted key is in the sorted keys; raises `NgramError` for the first that is not."""
    positions = np.searchsorted(keys, wanted)
    found = keys[np.minimum(positions, len(keys) - 1)] == wanted if len(keys) else np.zeros(len(wanted), bool)
    if not found.all():
        raise NgramError(order, int(np.argmin(found)), "extends a context that the model lacks")
    return positions.astype(np.uint64)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text. Sentence ends count as words, as is usual.

    ``log_prob`` is the natural log-probability of all of it, ``unknown_log_prob`` the part of words not in the model.
    """

    sentences: int
    words: int
    unknown_words: int
    log_prob: float
    unknown_log_prob: float

    @property
    def including_unknown(self) -> float:
        """Perplexity over all words; comparable only between models of one vocabulary."""
        return math.exp(-self.log_prob / max(1, self.words + self.sentences))

    @property
    def excluding_unknown(self) -> float:
        """Perplexity over the words that the model knows."""
        predicted = self.words + self.sentences - self.unknown_words
        return math.exp(-(self.log_prob - self.unknown_log_prob) / max(1, predicted))


def measure_perplexity(model: LanguageModel, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """Score sentences, each a list of normalised words."""
    count = words = unknown_words = 0
    log_prob = unknown_log_prob = 0.0
    for sentence in sentences:
        scores = model.score_sentence(sentence)
        unknown = [s for s, word in zip(scores, sentence, strict=False) if model.word_id(word) == model.unknown_id]
        count += 1
        words += len(sentence)
        unknown_words += len(unknown)
        log_prob += math.fsum(scores)
        unknown_log_prob += math.fsum(unknown)
    return Perplexity(count, words, unknown_words, log_prob, unknown_log_prob)
