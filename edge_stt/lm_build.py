"""Training of n-gram language models: interpolated modified Kneser-Ney smoothing, and pruning.

Smoothing: S. F. Chen & J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer Speech
and Language 13, 1999; the order of the work: K. Heafield et al., "Scalable modified Kneser-Ney language model
estimation", ACL 2013, with whose ``lmplz`` the result agrees. Highest order first, each order is counted, turned into
statistics of its contexts, and handed down as adjusted counts of the order below; only n-grams that survive pruning
stay in memory.

Pruning: by count, or by relative entropy (A. Stolcke, "Entropy-based pruning of backoff language models", DARPA
Broadcast News Transcription and Understanding Workshop, 1998). Histories are weighted by their frequency in the text,
as the lower orders of a Kneser-Ney model are no marginal distributions (C. Chelba et al., "Study on interaction between
entropy pruning and Kneser-Ney smoothing", Interspeech 2010), and what remains is estimated anew from the counts.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError, UsageError
from .lm import MAX_ORDER, SPECIAL_WORDS, Array, LanguageModel, Ngrams
from .lm_count import (
    START_ID,
    Corpus,
    NgramCounter,
    Progress,
    check_key_size,
    group_starts,
    group_sums,
    store_corpus,
    window_keys,
)
from .lm_file import MANY
from .text import Normaliser

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""What `lmplz --discount_fallback` takes where a text is too small or too regular to estimate them."""


@dataclass(frozen=True)
class BuildConfig:
    """How to train.

    ``vocabulary``: the words, or None for the words of the text, then at most ``vocabulary_size`` of the most frequent
    that occur ``min_count`` times. ``prune_counts``: for each order, n-grams that occur so often or less are left out
    (order 1 is never pruned; the last number holds for the orders beyond). ``prune_entropy``: n-grams whose removal
    raises the perplexity by less than this part are left out (1e-7 is mild, 1e-8 milder); ``size``: as many are left
    out as needed for a file of so many bytes. ``memory``: bytes to count in; beyond, counts go to disk.
    With ``normalise``, texts go through ``normaliser``, English without one. With ``letters`` the model is one of
    letters (`edge_stt.letter_lm`), not of words.
    """

    order: int = 3
    vocabulary: tuple[str, ...] | None = None
    vocabulary_size: int | None = None
    min_count: int = 1
    prune_counts: tuple[int, ...] = ()
    prune_entropy: float | None = None
    size: int | None = None
    normalise: bool = True
    normaliser: Normaliser | None = None
    memory: int = 1 << 30
    letters: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise UsageError(f"the order must be 1 to {MAX_ORDER}, not {self.order}")
        if list(self.prune_counts) != sorted(self.prune_counts) or min(self.prune_counts, default=0) < 0:
            raise UsageError("numbers to prune by must not fall from one order to the next, as in 0,0,1")
        if len(self.prune_counts) > self.order or (self.prune_counts and self.prune_counts[0] > 0):
            raise UsageError(f"give at most {self.order} numbers to prune by, the first 0: words are never pruned")
        if self.prune_entropy is not None and self.size is not None:
            raise UsageError("prune by entropy or to a size, not both")

    def prune_count(self, order: int) -> int:
        """N-grams of this order that occur so often or less are left out."""
        return self.prune_counts[min(order, len(self.prune_counts)) - 1] if self.prune_counts and order > 1 else 0


@dataclass(frozen=True)
class _Contexts:
    """What is known of each context of an order's n-grams: sorted keys, sums over all that follows."""

    keys: Array
    raw: Array
    adjusted: Array
    kept: Array  # [count, 3]: n-grams kept whose adjusted count is 1, 2, 3 or more
    pruned: Array  # sum of the adjusted counts of n-grams not kept


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one order that are kept (sorted keys), their adjusted counts, their contexts, the discounts."""

    keys: Array
    adjusted: Array
    contexts: _Contexts
    discounts: tuple[float, float, float]


@dataclass(frozen=True)
class _Estimates:
    """One order of the model, by sorted keys: log-probabilities, and the log weights of its contexts."""

    keys: Array
    log_probs: Array
    contexts: _Contexts
    weights: Array


Keep = Callable[[int, Array, Array], Array]
"""Order, keys, numbers of occurrences → which n-grams to keep."""


def build(texts: Sequence[Path], config: BuildConfig, progress: Progress = lambda what, done: None) -> LanguageModel:
    """Train a model on texts (see `edge_stt.lm_count.read_sentences`), one sentence a line.

    Raises `DataError` for texts that cannot be read or have no words, `UsageError` for settings that cannot be met.
    """
    with tempfile.TemporaryDirectory(prefix="edge-stt-lm-") as name:
        folder = Path(name)
        corpus = store_corpus(texts, folder, config.normalise, progress, config.normaliser, config.letters)
        vocabulary, ids = choose_vocabulary(corpus, config)
        bits = check_key_size(config.order, len(vocabulary))
        counter = NgramCounter(folder, config.memory)
        total = corpus.tokens.stat().st_size // 4
        done = 0
        for keys in window_keys(corpus, ids, config.order, bits):
            counter.add(keys)
            done += len(keys)
            progress("counting", done / total)
        trainer = _Trainer(config, folder, bits, len(vocabulary), total, progress)
        model = trainer.estimate(trainer.count(counter, trainer.frequent_enough))
        if config.prune_entropy is not None or config.size is not None:
            kept = trainer.choose(model, None if config.size is None else _room(vocabulary, config.size))
            model = trainer.estimate(trainer.count(counter, _among(kept)))
    return LanguageModel.from_ngrams(vocabulary, trainer.as_ngrams(model))


def choose_vocabulary(corpus: Corpus, config: BuildConfig) -> tuple[list[str], Array]:
    """The words of the model, the special ones first, then by frequency; and the map from tokens to word ids."""
    found = {word: i for i, word in enumerate(corpus.words)}
    if config.vocabulary is not None:
        words = list(dict.fromkeys(config.vocabulary))
    else:
        by_count = np.argsort(-corpus.counts, kind="stable")
        words = [corpus.words[i] for i in by_count[: config.vocabulary_size] if corpus.counts[i] >= config.min_count]
    vocabulary = [*SPECIAL_WORDS, *(word for word in words if word not in SPECIAL_WORDS)]
    if len(vocabulary) == len(SPECIAL_WORDS):
        raise DataError("the vocabulary is empty")
    ids = np.zeros(1 + len(corpus.words), np.uint32)  # 0: unknown
    ids[0] = SPECIAL_WORDS.index("</s>")
    for i, word in enumerate(vocabulary[len(SPECIAL_WORDS) :], len(SPECIAL_WORDS)):
        if word in found:
            ids[1 + found[word]] = i
    return vocabulary, ids


def _positions(keys: Array, wanted: Array) -> tuple[Array, Array]:
    """Where the wanted keys are among sorted keys, and whether they are."""
    positions = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return positions, (keys[positions] == wanted if len(keys) else np.zeros(len(wanted), bool))


def _among(kept: Sequence[Array]) -> Keep:
    return lambda order, keys, raw: _positions(kept[order - 1], keys)[1]


def discounts_from(counts_of_counts: Sequence[int]) -> tuple[float, float, float]:
    """Modified Kneser-Ney's discounts of n-grams seen once, twice, and more often (Chen & Goodman, equation 26).

    ``counts_of_counts``: how many n-grams have adjusted count 1, 2, 3 and 4. Where that gives no usable discounts,
    `FALLBACK_DISCOUNTS`.
    """
    n1, n2, n3, n4 = counts_of_counts
    if 0 in (n1, n2, n3):
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return discounts if all(0 <= d <= c for c, d in enumerate(discounts, 1)) else FALLBACK_DISCOUNTS


@dataclass(frozen=True)
class _Trainer:
    config: BuildConfig
    folder: Path
    bits: int
    vocabulary_size: int
    tokens: int
    progress: Progress

    def frequent_enough(self, order: int, keys: Array, raw: Array) -> Array:
        return raw > self.config.prune_count(order)

    def count(self, counter: NgramCounter, keep: Keep) -> list[_Counts]:
        """Kept n-grams of each order from 1, given the counts of the highest.

        The adjusted count of a shorter n-gram is the number of different words before it; if it begins a sentence, how
        often it does. Pruned n-grams count like others for all but themselves.
        """
        orders: list[_Counts] = []
        for order in range(self.config.order, 0, -1):
            below = NgramCounter(self.folder, self.config.memory)
            blocks = []
            contexts = []
            counts_of_counts = np.zeros(5, np.int64)
            for block in counter.merged():
                keys, raw, adjusted = block["key"], block["raw"], block["adjusted"]
                # <s> before <s>: not an n-gram of this order, but a shorter one on its way down.
                first_two = keys >> np.uint64(self.bits * max(order - 2, 0))
                passing = first_two == (START_ID << self.bits) + START_ID
                kept = keep(order, keys, raw) & ~passing
                if order > 1:
                    below.add(self._suffix(keys, order), raw, np.where(passing, adjusted, np.uint64(1)))
                counts_of_counts += np.bincount(np.minimum(adjusted[~passing], 5).astype(int), minlength=6)[:5]
                blocks.append(block[kept])
                contexts.append(self._contexts(block[~passing], kept[~passing]))
                self.progress(f"order {order}", 0.0)
            kept_ngrams = np.concatenate(blocks)
            discounts = discounts_from(counts_of_counts[1:].tolist())
            orders.append(_Counts(kept_ngrams["key"], kept_ngrams["adjusted"], _join(contexts), discounts))
            counter = below
        return orders[::-1]

    def _contexts(self, block: Array, kept: Array) -> _Contexts:
        contexts = block["key"] >> np.uint64(self.bits)
        starts = group_starts(contexts)
        adjusted = block["adjusted"].astype(np.int64)
        columns = [block["raw"].astype(np.int64), adjusted, np.where(kept, 0, adjusted)]
        columns += [kept & (adjusted == 1), kept & (adjusted == 2), kept & (adjusted >= 3)]
        sums = [group_sums(column.astype(np.int64), starts) for column in columns]
        return _Contexts(contexts[starts], sums[0], sums[1], np.stack(sums[3:], axis=1), sums[2])

    def estimate(self, counts: Sequence[_Counts]) -> list[_Estimates]:
        """Interpolated probabilities, lowest order first (Heafield et al., equations 2 to 4)."""
        orders: list[_Estimates] = []
        for order, level in enumerate(counts, 1):
            contexts = level.contexts
            lost = contexts.kept @ np.array(level.discounts) + contexts.pruned
            weights = lost / contexts.adjusted
            if order == 1:
                # <s> is never predicted; every other word has at least its share of what the discounts leave.
                probs = np.full(self.vocabulary_size, weights[0] / (self.vocabulary_size - 1))
                probs[level.keys.astype(np.int64)] += self._discounted(level) / contexts.adjusted[0]
                probs[START_ID] = 10.0**-99
                keys = np.arange(self.vocabulary_size, dtype=np.uint64)
            else:
                place, _ = _positions(contexts.keys, level.keys >> np.uint64(self.bits))
                lower = np.exp(self._log_probs(orders, order - 1, self._suffix(level.keys, order)))
                probs = self._discounted(level) / contexts.adjusted[place] + weights[place] * lower
                keys = level.keys
            # Where no n-gram lost anything to discounts, nothing is left for the others: no log of 0.
            log_probs, log_weights = (np.log(np.maximum(values, 10.0**-99)) for values in (probs, weights))
            orders.append(_Estimates(keys, log_probs, contexts, log_weights))
            self.progress("estimating", order / len(counts))
        return orders

    def _discounted(self, level: _Counts) -> Array:
        """Adjusted counts less their discounts, never below 0."""
        adjusted = level.adjusted.astype(np.float64)
        return np.maximum(adjusted - np.array((0.0, *level.discounts))[np.minimum(adjusted, 3).astype(int)], 0.0)

    def _suffix(self, keys: Array, order: int) -> Array:
        return keys & np.uint64((1 << self.bits * (order - 1)) - 1)

    def _log_probs(self, orders: Sequence[_Estimates], order: int, keys: Array) -> Array:
        """Log-probabilities of n-grams of one order, backed off where the model does not have them."""
        level = orders[order - 1]
        place, found = _positions(level.keys, keys)
        log_probs = level.log_probs[place]
        if not found.all():
            missing = keys[~found]
            context, known = _positions(level.contexts.keys, missing >> np.uint64(self.bits))
            shorter = self._log_probs(orders, order - 1, self._suffix(missing, order))
            log_probs[~found] = np.where(known, level.weights[context], 0.0) + shorter
        return log_probs

    def choose(self, model: Sequence[_Estimates], size: int | None) -> list[Array]:
        """Keys of the n-grams of each order that pruning leaves. ``size``: bytes for the orders above 1."""
        losses = [np.zeros(0), *(self._losses(model, order) for order in range(2, len(model) + 1))]

        def kept_for(threshold: float) -> list[Array]:
            kept = [model[0].keys]
            needed = np.zeros(0, np.uint64)
            for order in range(len(model), 1, -1):
                keys = model[order - 1].keys
                keep = losses[order - 1] >= threshold
                keep[_positions(keys, needed)[0]] = True
                needed = np.unique(keys[keep] >> np.uint64(self.bits))
                kept.insert(1, keys[keep])
            return kept

        if size is None:
            return kept_for(self.config.prune_entropy or 0.0)
        low, high = -40.0, 0.0  # logarithm of the threshold
        if self._bytes(kept_for(0.0)) <= size:
            return kept_for(0.0)
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if self._bytes(kept_for(np.exp(middle))) <= size else (middle, high)
        return kept_for(np.exp(high))

    def _bytes(self, kept: Sequence[Array]) -> float:
        """What the orders above 1 take in our file (`edge_stt.lm_file`)."""
        highest = (2 if self.vocabulary_size <= 1 << 16 else 4) + 1  # word id, probability
        lower = highest + 2 + 4 / MANY  # and back-off, number of children: see `many_children`
        return sum(len(keys) * lower for keys in kept[1:-1]) + len(kept[-1]) * highest

    def _losses(self, model: Sequence[_Estimates], order: int) -> Array:
        """By what part the perplexity rises when one n-gram is left out (Stolcke, equations 3 to 6)."""
        level = model[order - 1]
        context, _ = _positions(level.contexts.keys, level.keys >> np.uint64(self.bits))
        log_p = level.log_probs
        log_q = self._log_probs(model, order - 1, self._suffix(level.keys, order))
        p, q = np.exp(log_p), np.exp(log_q)
        size = len(level.contexts.keys)
        unseen_q = np.maximum(1.0 - np.bincount(context, q, size), 1e-12)
        unseen_p = np.exp(level.weights) * unseen_q
        weight = level.weights[context]
        weight_without = np.log((unseen_p[context] + p) / (unseen_q[context] + q))
        history = level.contexts.raw[context] / self.tokens
        change = p * (log_q + weight_without - log_p) + unseen_p[context] * (weight_without - weight)
        return np.expm1(-history * change)

    def as_ngrams(self, model: Sequence[_Estimates]) -> list[Ngrams]:
        """As `LanguageModel.from_ngrams` takes it: weights of contexts become back-offs of the order below."""
        orders = []
        for order, (level, above) in enumerate(itertools.zip_longest(model, model[1:]), 1):
            words = np.empty((len(level.keys), order), np.uint32)
            for column in range(order):
                words[:, column] = (level.keys >> np.uint64(self.bits * (order - 1 - column))) & np.uint64(
                    (1 << self.bits) - 1
                )
            backoffs = np.zeros(len(level.keys), np.float32)
            if above is not None:
                place, found = _positions(above.contexts.keys, level.keys)
                backoffs[found] = above.weights[place[found]]
            orders.append(Ngrams(words, level.log_probs.astype(np.float32), backoffs))
        return orders


def _room(vocabulary: Sequence[str], size: int) -> int:
    """Bytes that a file of ``size`` has for the orders above 1."""
    room = size - sum(len(word.encode()) + 1 + 4 + 4 + 1 for word in vocabulary) - 16384
    if room <= 0:
        raise UsageError(f"a file of {size} bytes cannot hold {len(vocabulary)} words: allow more than {size - room}")
    return room


def _join(parts: Sequence[_Contexts]) -> _Contexts:
    """Parts in order of key; a context may go on from one part into the next."""
    keys = np.concatenate([part.keys for part in parts])
    starts = group_starts(keys)

    def add(column: str) -> Array:
        return group_sums(np.concatenate([getattr(part, column) for part in parts]), starts)

    return _Contexts(keys[starts], add("raw"), add("adjusted"), add("kept"), add("pruned"))
