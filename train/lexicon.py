"""The words a model can write: every word of a language model with its pronunciations, as a `Lexicon` file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge_stt.errors import DataError
from edge_stt.language import Language, load_language
from edge_stt.lexicon import Lexicon
from edge_stt.lm import LanguageModel
from edge_stt.units import UnitSet

from .pronunciation import Labeller

RANK_PENALTY = math.log(2.0)  # each later variant of the dictionary counts as half as likely as the one before it


def pronounced(
    words: Iterable[str], labeller: Labeller, language: Language
) -> Iterable[tuple[str, tuple[str, ...], float]]:
    """(word, phonemes, log weight): all variants of the dictionary, or what the letter-to-phoneme model says.

    Each is followed by what the accents of the language make of it.
    """
    for word in words:
        variants = labeller.lexicon.get(word) or (labeller.pronounce_word(word),)
        for rank, variant in enumerate(variants):
            for said, weight in language.pronunciations(variant):
                yield word, said, math.log(weight) - rank * RANK_PENALTY


def phoneme_units(language: Language) -> UnitSet:
    """The phonemes of a language; raises `DataError` when it has none."""
    for units in language.units.values():
        if units.kind == "phonemes":
            return units
    raise DataError(f"the language {language.name} has no phonemes; its words are spelled, and need no lexicon")


def build_lexicon(lm: LanguageModel, labeller: Labeller, language: Language | None = None) -> Lexicon:
    """Phoneme lexicon of the words of ``lm``, with the look-ahead scores that its unigrams give."""
    language = language or load_language("english")
    words = [word for word in lm.vocabulary if not word.startswith("<")]
    lexicon = Lexicon.build(pronounced(words, labeller, language), phoneme_units(language))
    nothing = lm.empty_state()
    scores = [lm.score(nothing, lm.word_id(word))[0] for word in lexicon.words]
    return lexicon.with_scores(np.array(scores, np.float32))


def write_lexicon(
    lm_path: Path, out: Path, labeller: Labeller | None = None, language: Language | None = None
) -> Lexicon:
    """Build the lexicon of the language model at ``lm_path`` and save it; in English where nothing else is said."""
    language = language or load_language("english")
    phoneme_units(language)
    lexicon = build_lexicon(LanguageModel.load(lm_path), labeller or Labeller.of(language), language)
    lexicon.save(out)
    return lexicon
