"""The beam search: exact where it can be checked by hand, the same for any chunking, bounded in time and memory."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.beam import BeamConfig, BeamDecoder
from edge_stt.decoding import Hypothesis, LogProbs, greedy
from edge_stt.errors import DecodingError
from edge_stt.lexicon import Lexicon
from edge_stt.lm import LanguageModel, Ngrams
from edge_stt.units import ARPABET, BLANK, ENGLISH_CHARACTERS, SEPARATOR, UnitSet

SMALL = UnitSet("small", "characters", ("<blank>", " ", "a", "b"))
SOUNDS = UnitSet("sounds", "phonemes", ("<blank>", "|", "A", "B"))
# Homophones (to, two), a word with two pronunciations (either), words that begin others.
WORDS = [("to", "A"), ("two", "A"), ("either", "AB"), ("either", "BA"), ("aba", "ABA"), ("be", "B")]
LEXICON = Lexicon.build(((word, tuple(sounds)) for word, sounds in WORDS), SOUNDS)
UNPRUNED = BeamConfig(
    beam_width=4096,
    beam_threshold=math.inf,
    token_top_k=99,
    token_min_log_prob=-math.inf,
    blank_skip_threshold=math.inf,
    recombine=False,
    lm_weight=0.7,
    word_insertion_bonus=0.4,
)


def random_log_probs(seed: int, frames: int, units: int, sharpness: float = 2.0) -> LogProbs:
    logits = np.random.default_rng(seed).normal(0.0, sharpness, (frames, units))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def small_lm() -> LanguageModel:
    """A bigram model over the words of WORDS (and "a", "b"), with made-up back-offs."""
    vocabulary = ["<unk>", "<s>", "</s>", "to", "two", "either", "aba", "be", "a", "b"]
    unigrams = np.log(np.array([0.02, 1e-9, 0.1, 0.3, 0.05, 0.1, 0.03, 0.2, 0.1, 0.1]))
    bigrams = np.array([[1, 4], [3, 7], [4, 5], [8, 9]], np.uint32)
    return LanguageModel.from_ngrams(
        vocabulary,
        [
            Ngrams(np.arange(10, dtype=np.uint32)[:, None], unigrams.astype(np.float32), np.full(10, -0.3, np.float32)),
            Ngrams(bigrams, np.log(np.array([0.5, 0.6, 0.4, 0.7])).astype(np.float32), np.zeros(4, np.float32)),
        ],
    )


def brute_force(log_probs: LogProbs, units: UnitSet) -> dict[tuple[tuple[int, ...], ...], float]:
    """Log-probability of every sequence of words (as units), summed over all alignments."""
    found: dict[tuple[tuple[int, ...], ...], float] = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(len(units)), repeat=len(log_probs)):
        merged = [unit for unit, _ in itertools.groupby(path) if unit != BLANK]
        words = [tuple(group) for separates, group in itertools.groupby(merged, lambda u: u == SEPARATOR) if not separates]
        log_prob = sum(float(log_probs[t, unit]) for t, unit in enumerate(path))
        found[tuple(words)] = np.logaddexp(found[tuple(words)], log_prob)
    return dict(found)


def assert_same_scores(hypotheses: list[Hypothesis], expected: dict[str, float]) -> None:
    assert len({h.text for h in hypotheses}) == len(hypotheses)
    assert {h.text for h in hypotheses} == set(expected)
    for h in hypotheses:
        assert h.score == pytest.approx(expected[h.text], abs=1e-5)
    assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_open_vocabulary_is_exact(seed: int) -> None:
    log_probs = random_log_probs(seed, 5, 4)
    expected = {
        " ".join("".join(SMALL.symbols[u] for u in word) for word in words): score + 0.4 * len(words)
        for words, score in brute_force(log_probs, SMALL).items()
    }
    assert_same_scores(BeamDecoder(SMALL, UNPRUNED).decode(log_probs, 10_000), expected)


@pytest.mark.parametrize("with_lm", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_lexicon_is_exact(seed: int, with_lm: bool) -> None:
    log_probs = random_log_probs(seed, 6, 4)
    lm = small_lm() if with_lm else None
    spoken = defaultdict(list)
    for word, sounds in WORDS:
        spoken[tuple(SOUNDS.index[s] for s in sounds)].append(word)
    expected: dict[str, float] = defaultdict(lambda: -math.inf)
    for sequence, score in brute_force(log_probs, SOUNDS).items():
        for words in itertools.product(*(spoken.get(sounds, []) for sounds in sequence)):
            total = score + 0.4 * len(words)
            if lm is not None:
                total += 0.7 * sum(lm.score_sentence(words)[:-1])
            text = " ".join(words)
            expected[text] = float(np.logaddexp(expected[text], total))
    decoder = BeamDecoder(SOUNDS, UNPRUNED, LEXICON, lm)
    assert_same_scores(decoder.decode(log_probs, 10_000), dict(expected))
