"""Settings of the beam search, all in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from .errors import DecodingError

INFINITY = math.inf
MAX_BEAM_WIDTH = 4096


@dataclass(frozen=True)
class ConfidenceConfig:
    """How a word's confidence is made: a logistic function of two features, to be fitted on held-out speech.

    ``competition`` × ln(odds of the word against its rivals in the beam) + ``acoustics`` × mean ln(probability of its
    units) + ``offset``.
    """

    competition: float = 0.46
    acoustics: float = 1.73
    offset: float = 0.74


@dataclass(frozen=True)
class BeamConfig:
    """All settings of the search. Scores are natural logs; ``math.inf`` turns a pruning off.

    Pruning: ``beam_width`` prefixes, none more than ``beam_threshold`` below the best; of each frame the
    ``token_top_k`` likeliest units, none below ``token_min_log_prob``; frames whose blank has at least
    ``blank_skip_threshold`` probability are all blank.

    Scores, where there is a language model: its log-probability × ``lm_weight`` + ``word_insertion_bonus`` for each
    word, ``unknown_word_score`` more for one it does not know; ``score_sentence_end`` asks for the sentence's end too.

    With a language model of letters: its log-probability × ``letter_weight`` + ``letter_bonus`` for each letter.

    ``separator_penalty``: a word may also end where the model gives no separator, as if its probability were that of
    the blank less the penalty. ``recombine``: prefixes with the same future are one, the lesser an alternative of the
    better; without it the search is Hannun's to the letter. ``history_frames``: words that ended longer ago, and that
    all prefixes share, are settled, which bounds the memory of an endless stream.
    """

    beam_width: int = 16
    beam_threshold: float = 10.0
    token_top_k: int = 10
    token_min_log_prob: float = -7.0
    blank_skip_threshold: float = 0.995
    lm_weight: float = 1.0
    word_insertion_bonus: float = 1.0
    unknown_word_score: float = -5.0
    score_sentence_end: bool = False
    letter_weight: float = 0.6
    letter_bonus: float = 0.0
    separator_penalty: float = INFINITY
    recombine: bool = True
    history_frames: int = 1500
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("beam_width", 1, MAX_BEAM_WIDTH),
            ("beam_threshold", 0.0, INFINITY),
            ("token_top_k", 1, INFINITY),
            ("token_min_log_prob", -INFINITY, 0.0),
            ("blank_skip_threshold", 0.5, INFINITY),
            ("lm_weight", 0.0, 100.0),
            ("word_insertion_bonus", -100.0, 100.0),
            ("unknown_word_score", -1000.0, 100.0),
            ("letter_weight", 0.0, 100.0),
            ("letter_bonus", -100.0, 100.0),
            ("separator_penalty", 0.0, INFINITY),
            ("history_frames", 1, INFINITY),
        ):
            value = getattr(self, name)
            is_number = isinstance(value, Real)
            if not is_number or not low <= value <= high:  # so NaN is refused too
                raise DecodingError(f"{name} must lie between {low:g} and {high:g}, not {value}")
        width: Any = self.beam_width
        if not isinstance(width, Integral):
            raise DecodingError(f"beam_width must be a whole number, not {width}")
