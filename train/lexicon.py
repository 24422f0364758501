"""The words a model can write: every word of a language model with its pronunciations, as a `Lexicon` file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge_stt.lexicon import Lexicon
from edge_stt.lm import LanguageModel
from edge_stt.units import ARPABET

from .pronunciation import Labeller

RANK_PENALTY = math.log(2.0)  # each later variant of CMUdict counts as half as likely as the one before it


def pronounced(words: Iterable[str], labeller: Labeller) -> Iterable[tuple[str, tuple[str, ...], float]]:
    """(word, phonemes, log weight): all variants of CMUdict, or what the letter-to-phoneme model says."""
    for word in words:
        variants = labeller.lexicon.get(word) or (labeller.pronounce_word(word),)
        for rank, variant in enumerate(variants):
            yield word, variant, -rank * RANK_PENALTY


def build_lexicon(lm: LanguageModel, labeller: Labeller) -> Lexicon:
    """Phoneme lexicon of the words of ``lm``, with the look-ahead scores that its unigrams give."""
    words = [word for word in lm.vocabulary if not word.startswith("<")]
    lexicon = Lexicon.build(pronounced(words, labeller), ARPABET)
    nothing = lm.empty_state()
    scores = [lm.score(nothing, lm.word_id(word))[0] for word in lexicon.words]
    return lexicon.with_scores(np.array(scores, np.float32))


def write_lexicon(lm_path: Path, out: Path, labeller: Labeller | None = None) -> Lexicon:
    """Build the lexicon of the language model at ``lm_path`` and save it."""
    lexicon = build_lexicon(LanguageModel.load(lm_path), labeller or Labeller())
    lexicon.save(out)
    return lexicon
