"""The beam search decoder: log-probabilities in, words out, all at once or as they come.

`BeamDecoder` puts the parts together: a `PrefixTree` (lexicon or open vocabulary), a word language model, hot words,
the `Search`, and what is read off its end (`edge_stt.traceback`). Pure Python and numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from .beam_config import BeamConfig, ConfidenceConfig
from .beam_search import History, Prefix, Search, choose_units, log_add
from .decoding import Hypothesis, LogProbs
from .errors import DecodingError
from .hotwords import BoundHotWords, HotWords, Pronouncer
from .letter_lm import LetterModel
from .lexicon import Lexicon
from .lm import LanguageModel
from .prefix_tree import PrefixTree, WordScores
from .traceback import Cut, Ending, WordLink, pack_tokens, reaches, trace
from .units import BLANK, SEPARATOR, UnitSet

__all__ = ["BeamConfig", "BeamDecoder", "BeamState", "ConfidenceConfig"]

SETTLE_FRAMES = 500  # how often old words are settled


@dataclass(frozen=True)
class BeamState:
    """Where a search stands after ``frames`` frames. Never changed: a state can be advanced more than once.

    ``settled`` holds words that no later frame can change, ``offset`` the log-probability of skipped frames, and
    ``after_skip`` says whether the last frame was skipped.
    """

    frames: int
    offset: float
    after_skip: bool
    settled: tuple[Hypothesis, ...]
    beam: tuple[Prefix, ...]


class BeamDecoder:
    """A search with fixed settings; use one for as many utterances as you like, from one thread."""

    def __init__(
        self,
        units: UnitSet,
        config: BeamConfig | None = None,
        lexicon: Lexicon | None = None,
        lm: LanguageModel | None = None,
        hot_words: HotWords | None = None,
        pronouncer: Pronouncer | None = None,
        open_vocabulary: bool = False,
        letters: LanguageModel | None = None,
    ) -> None:
        """``lexicon``: the words to choose from; without one, and with ``open_vocabulary``, any string of characters
        is a word. ``pronouncer`` is asked for the pronunciation of hot words outside the lexicon. ``letters``: a
        language model of letters (`edge_stt.letter_lm`), where there is no lexicon.

        Raises `DecodingError` for parts that do not fit together.
        """
        self.units, self.config = units, config or BeamConfig()
        if lexicon is not None and lexicon.units.symbols != units.symbols:
            raise DecodingError(f"the lexicon is written in {lexicon.units.name!r}, the model speaks {units.name!r}")
        if units.kind == "phonemes" and open_vocabulary:
            raise DecodingError("phonemes do not spell words: an open vocabulary is for models with characters")
        if units.kind == "phonemes" and lexicon is None and (lm is not None or hot_words is not None):
            raise DecodingError("phonemes become words through a lexicon: give one with a language model or hot words")
        if lm is not None:
            if lexicon is None:
                lexicon, open_vocabulary = Lexicon.of_model(lm, units), True
            elif not any(word in lm for word in lexicon.words):
                raise DecodingError("the language model has none of the lexicon's words; they are not for one language")
        scores = WordScores(self.config.lm_weight, self.config.word_insertion_bonus, self.config.unknown_word_score)
        self.tree = PrefixTree(units, scores, lexicon, lm, open_vocabulary)
        bound = BoundHotWords(hot_words, self.tree, pronouncer) if hot_words is not None else None
        spelling = None
        if letters is not None:
            if lexicon is not None:
                raise DecodingError("a language model of letters goes without a lexicon; leave one of them out")
            spelling = LetterModel(letters, units, self.config.letter_weight, self.config.letter_bonus)
        self.search = Search(self.config, self.tree, lm, bound, spelling)

    def start(self) -> BeamState:
        """The state before the first frame."""
        return BeamState(0, 0.0, False, (), tuple(self.search.start()))

    def decode(self, log_probs: LogProbs, n_best: int = 1) -> list[Hypothesis]:
        """Search a whole utterance, float32 ``[frames, units]``: up to ``n_best`` hypotheses, the best first."""
        return self.finish(self.advance(self.start(), log_probs), n_best)

    def advance(self, state: BeamState, log_probs: LogProbs) -> BeamState:
        """Search on through ``log_probs``, float32 ``[frames, units]``; how they are cut into chunks is no matter.

        Raises `DecodingError` for another shape and for NaN.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.units):
            shape = tuple(log_probs.shape)
            raise DecodingError(f"the decoder wants log-probabilities [frames, {len(self.units)}], not {shape}")
        if np.isnan(log_probs).any():
            raise DecodingError("the log-probabilities hold NaN: the model or its input is damaged")
        self.tree.forget()
        blanks = log_probs[:, BLANK]
        threshold = math.log(self.config.blank_skip_threshold)
        frames = iter(choose_units(log_probs[blanks < threshold], self.config))
        beam = [prefix.copy() for prefix in state.beam]
        offset, after_skip, settled = state.offset, state.after_skip, state.settled
        for time, blank in enumerate(blanks.tolist(), state.frames):
            if blank >= threshold:
                offset += blank
                after_skip = True
            else:
                if after_skip:
                    for prefix in beam:
                        prefix.log_blank, prefix.log_unit = prefix.total, -math.inf
                    after_skip = False
                beam = self.search.step(beam, next(frames), time)
            if (time + 1) % SETTLE_FRAMES == 0:
                beam, part = self._settle(beam, time + 1)
                settled += part
        return BeamState(state.frames + len(log_probs), offset, after_skip, settled, tuple(beam))

    def best(self, state: BeamState) -> Hypothesis:
        """The best hypothesis so far, settled words included; it may yet change."""
        return self._complete(state, trace(self._endings(state, False), 1, self.config.confidence))[0]

    def stable_words(self, state: BeamState) -> int:
        """How many words, from the first, all prefixes of the beam agree on: no later frame can change them."""
        places: dict[int, int] = {}
        word, count = state.beam[0].word, 0
        while word is not None:
            places[word.key] = count
            word, count = word.previous, count + 1
        after = 0  # words of the first prefix that some other has not
        for prefix in state.beam[1:]:
            word = prefix.word
            while word is not None and word.key not in places:
                word = word.previous
            after = max(after, count if word is None else places[word.key])
        return sum(len(part.words) for part in state.settled) + count - after

    def finish(self, state: BeamState, n_best: int = 1) -> list[Hypothesis]:
        """The utterance is over: up to ``n_best`` hypotheses with different texts, the best first."""
        if n_best < 1:
            raise DecodingError(f"n_best must be at least 1, not {n_best}")
        return self._complete(state, trace(self._endings(state, True), n_best, self.config.confidence))

    @staticmethod
    def _complete(state: BeamState, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        words = tuple(word for part in state.settled for word in part.words)
        tokens = tuple(token for part in state.settled for token in part.tokens)
        return [Hypothesis(words + h.words, h.score, tokens + h.tokens) for h in hypotheses]

    def _endings(self, state: BeamState, final: bool) -> list[Ending]:
        """All ways to take what was heard for complete, the best first.

        A last word that has only begun is left out; at the end, such readings count only when there are no others.
        """
        endings: dict[int, Ending] = {}
        unfinished: list[Ending] = []
        for prefix in state.beam:
            base = prefix.total - self.search.expected(prefix) + state.offset
            if prefix.node.unit == SEPARATOR:
                score = base + self._end_score(prefix.history) if final else base
                _add_ending(endings, Ending(score, prefix.history.key, prefix.word, prefix.alternatives))
                continue
            tokens = pack_tokens(prefix.token(), state.frames)
            ends = prefix.ends or self.search.word_ends(prefix)
            for word, history, gain in ends:
                score = base + gain + (self._end_score(history) if final else 0.0)
                link = WordLink(prefix.word, word.text, history.key, tokens, prefix.alternatives)
                _add_ending(endings, Ending(score, history.key, link, {}))
            if not ends:
                unfinished.append(Ending(base, prefix.history.key, prefix.word, prefix.alternatives))
        if not endings or not final:
            for ending in unfinished:
                endings.setdefault(ending.key, ending)
        return sorted(endings.values(), key=attrgetter("score"), reverse=True)

    def _end_score(self, history: History) -> float:
        """What the end of the utterance adds: a phrase that has only begun loses its credit."""
        score, lm = history.boosts.elsewhere if history.boosts is not None else 0.0, self.search.lm
        if lm is not None and self.config.score_sentence_end:
            score += self.config.lm_weight * lm.score(history.lm_state, lm.end_id)[0]
        return score

    def _settle(self, beam: list[Prefix], frames: int) -> tuple[list[Prefix], tuple[Hypothesis, ...]]:
        """Cut off the words that ended more than ``history_frames`` ago, where all prefixes agree on them."""
        word = beam[0].word
        while word is not None and word.end > frames - self.config.history_frames:
            word = word.previous
        if word is None or not all(reaches(prefix.word, word.key) for prefix in beam):
            return beam, ()
        # Words after it are traced too, for what they know of rivals.
        whole = trace([Ending(0.0, 0, beam[0].word, {})], 1, self.config.confidence)[0]
        words = tuple(w for w in whole.words if w.end <= word.end)
        tokens = tuple(t for t in whole.tokens if t.end <= word.end)
        cut = Cut(word.key)
        for prefix in beam:
            prefix.word, prefix.alternatives = cut.shorten(prefix.word, prefix.alternatives)
        return beam, (Hypothesis(words, 0.0, tokens),)


def _add_ending(endings: dict[int, Ending], ending: Ending) -> None:
    """Add a way to end; ways to the same text are one, with the times of the stronger."""
    same = endings.get(ending.key)
    if same is not None:
        stronger = ending if ending.score > same.score else same
        ending = replace(stronger, score=log_add(ending.score, same.score))
    endings[ending.key] = ending
