"""CTC prefix beam search with a lexicon, a word language model and hot words, in pure Python.

The search is that of A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional
recurrent DNNs" (arXiv:1408.2873, 2014): each prefix carries the probability of all alignments that end in a blank, and
of those that end in its last unit. A prefix is its words so far and a node of the `PrefixTree`, a prefix of the next.
Separators at the edges and repeated ones mean nothing: texts are words.

The inner loop works on plain floats and slots. What makes it fast: units of a whole chunk are chosen at once with
numpy; frames of sure blank cost one addition; a word's language model score is computed once for each prefix; and the
look-ahead in the tree lets the sorted beam be left early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from .decoding import DecodedWord, Hypothesis, LogProbs
from .errors import DecodingError
from .hotwords import Boosts, BoundHotWords, HotWords, Pronouncer
from .lexicon import Lexicon
from .lm import LanguageModel, State
from .prefix_tree import Node, PrefixTree, WordEnd, WordScores
from .traceback import Alternatives, ConfidenceConfig, Ending, TokenLink, WordLink, cut, pack_tokens, reaches, trace
from .units import BLANK, SEPARATOR, UnitSet

INFINITY = math.inf
TRIM_FRAMES = 500  # how often the history is looked at
MAX_BEAM_WIDTH = 4096


@dataclass(frozen=True)
class BeamConfig:
    """All settings of the search. Scores are natural logs; ``math.inf`` turns a pruning off.

    Pruning: ``beam_width`` prefixes, none more than ``beam_threshold`` below the best; of each frame the ``token_top_k``
    likeliest units, none below ``token_min_log_prob``; frames whose blank has at least ``blank_skip_threshold``
    probability are all blank. Scores: language model × ``lm_weight`` + ``word_insertion_bonus`` a word;
    ``unknown_word_score`` for a word outside the language model; ``score_sentence_end`` asks the model for the end.

    ``separator_penalty``: a word may also end where the model gives no separator, as if its probability were that of
    the blank less the penalty. ``recombine``: prefixes with the same future are one, the lesser an alternative of the
    better; without it the search is Hannun's to the letter. ``history_frames``: words that ended longer ago, and that
    all prefixes share, are settled, which bounds the memory of an endless stream.
    """

    beam_width: int = 16
    beam_threshold: float = 12.0
    token_top_k: int = 10
    token_min_log_prob: float = -9.0
    blank_skip_threshold: float = 0.995
    lm_weight: float = 1.0
    word_insertion_bonus: float = 0.0
    unknown_word_score: float = -5.0
    score_sentence_end: bool = False
    separator_penalty: float = INFINITY
    recombine: bool = True
    history_frames: int = 1500
    confidence: ConfidenceConfig = ConfidenceConfig()

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
            ("separator_penalty", 0.0, INFINITY),
            ("history_frames", 1, INFINITY),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # so NaN is refused too
                raise DecodingError(f"{name} must lie between {low:g} and {high:g}, not {value:g}")

    @property
    def word_scores(self) -> WordScores:
        """The part that the tree needs."""
        return WordScores(self.lm_weight, self.word_insertion_bonus, self.unknown_word_score)


class _History:
    """Words so far, as the future sees them. ``key`` tells word sequences apart (61 bits: clashes do not happen),
    ``future`` what can follow: language model state and hot words."""

    __slots__ = ("boosts", "future", "key", "lm_state")

    def __init__(self, key: int, lm_state: State, boosts: Boosts | None) -> None:
        self.key, self.lm_state, self.boosts = key, lm_state, boosts
        self.future = hash((lm_state, boosts.state if boosts is not None else 0))


class _Prefix:
    """One hypothesis of the beam: a history and a node, with log-probabilities, and the way it came.

    ``start``, ``end`` and ``mass`` (sum of probabilities) are of the last unit's frames on the strongest alignment.
    """

    __slots__ = (
        "alternatives",
        "end",
        "ends",
        "history",
        "key",
        "log_blank",
        "log_unit",
        "mass",
        "node",
        "start",
        "tokens",
        "total",
        "word",
    )

    def __init__(self, history: _History, node: Node, log_unit: float) -> None:
        self.history, self.node = history, node
        self.key = history.key ^ node.key
        self.total = self.log_unit = log_unit
        self.log_blank = -INFINITY
        self.ends: list[tuple[WordEnd, _History, float]] | None = None
        self.word: WordLink | None = None
        self.tokens: TokenLink | None = None
        self.alternatives: Alternatives = {}
        self.start = self.end = 0
        self.mass = 0.0

    def copy(self) -> _Prefix:
        other = _Prefix.__new__(_Prefix)
        for name in _Prefix.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def token(self) -> TokenLink:
        """The tokens of the word at hand, the last one included."""
        return self.tokens, self.node.unit, self.start, self.end, self.mass


@dataclass(frozen=True)
class BeamState:
    """Where a search stands after ``frames`` frames. Never changed: a state can be advanced more than once.

    ``settled`` holds words that no later frame can change, ``offset`` the log-probability of skipped frames.
    """

    frames: int
    offset: float
    after_skip: bool
    settled: tuple[Hypothesis, ...]
    _beam: tuple[_Prefix, ...]


_by_total = attrgetter("total")
_Candidate = tuple[float, Node, _History, "TokenLink | None", _Prefix, "WordEnd | None"]


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
    ) -> None:
        """``open_vocabulary``: words outside the lexicon are possible (characters); without a lexicon they always are.

        Raises `DecodingError` for parts that do not fit together.
        """
        self.units, self.config, self.lm = units, config or BeamConfig(), lm
        if lexicon is not None and lexicon.units.symbols != units.symbols:
            raise DecodingError(f"the lexicon is written in {lexicon.units.name!r}, the model speaks {units.name!r}")
        if units.kind == "phonemes" and lexicon is None and lm is not None:
            raise DecodingError("a language model over words needs a lexicon to make words of phonemes")
        if open_vocabulary and units.kind == "phonemes" and lexicon is not None:
            raise DecodingError("phonemes cannot spell words outside the lexicon; open_vocabulary is for characters")
        self.tree = PrefixTree(units, self.config.word_scores, lexicon, lm, open_vocabulary)
        self.hot_words = BoundHotWords(hot_words, self.tree, pronouncer) if hot_words else None
        self._sentence_end = lm.word_id("</s>") if lm is not None and self.config.score_sentence_end else None

    def start(self) -> BeamState:
        """The state before the first frame."""
        boosts = self.hot_words.boosts(0) if self.hot_words else None
        history = _History(1, self.lm.start_state() if self.lm is not None else (), boosts)
        prefix = _Prefix(history, self.tree.root, -INFINITY)
        prefix.total = prefix.log_blank = 0.0
        return BeamState(0, 0.0, False, (), (prefix,))

    def decode(self, log_probs: LogProbs, n_best: int = 1) -> list[Hypothesis]:
        """Search a whole utterance, float32 ``[frames, units]``: up to ``n_best`` hypotheses, the best first."""
        return self.finish(self.advance(self.start(), log_probs), n_best)

    def advance(self, state: BeamState, log_probs: LogProbs) -> BeamState:
        """Search on through ``log_probs``, float32 ``[frames, units]``; the cut into chunks makes no difference.

        Raises `DecodingError` for another shape and for NaN.
        """
        config = self.config
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.units):
            raise DecodingError(
                f"the decoder wants [frames, {len(self.units)}] log-probabilities, not {log_probs.shape}"
            )
        if np.isnan(log_probs).any():
            raise DecodingError("the log-probabilities hold NaN: the model or its input is damaged")
        self.tree.forget()
        blanks = log_probs[:, BLANK]
        threshold = math.log(config.blank_skip_threshold)
        active = np.flatnonzero(blanks < threshold)
        frames = _choose_units(log_probs[active], config)
        beam = [prefix.copy() for prefix in state._beam]
        offset, after_skip, settled = state.offset, state.after_skip, state.settled
        position = 0
        first = state.frames
        for index, blank in enumerate(blanks.tolist()):
            if blank >= threshold:
                offset += blank
                after_skip = True
            else:
                if after_skip:
                    for prefix in beam:
                        prefix.log_blank, prefix.log_unit = prefix.total, -INFINITY
                    after_skip = False
                row, pairs = frames[position]
                position += 1
                beam = self._step(beam, row, pairs, first + index)
            if (first + index + 1) % TRIM_FRAMES == 0:
                beam, settled = self._settle(beam, settled, first + index + 1)
        return BeamState(first + len(log_probs), offset, after_skip, settled, tuple(beam))

    def _step(self, beam: list[_Prefix], row: list[float], pairs: list[tuple[int, float]], frame: int) -> list[_Prefix]:
        """One frame: ``beam`` (best first, changed in place) on through ``row``, extended by the units in ``pairs``."""
        config, tree = self.config, self.tree
        root, closed, grow, expand = tree.root, not tree.open, tree.grow, tree.children
        blank = row[BLANK]
        separator = max(row[SEPARATOR], blank - config.separator_penalty)
        threshold = config.beam_threshold
        margin = self.hot_words.largest if self.hot_words else 0.0
        likeliest = max(pairs[0][1] if pairs else -INFINITY, separator) + margin
        cut_off = beam[0].total + blank - threshold  # below this nothing survives: the best prefix can always stay
        fresh: dict[int, _Candidate] = {}
        for prefix in beam:
            total = prefix.total
            if total + likeliest <= cut_off:
                break
            node, history = prefix.node, prefix.history
            boosts = history.boosts
            key, last = history.key, node.unit
            given = node.score
            if boosts is not None and node.key != root.key:
                given += boosts.by_node.get(node.key, boosts.elsewhere)
            base = total - given
            after_blank = prefix.log_blank - given
            link: TokenLink | None = None
            children = node.children
            if children is None:
                children = expand(node)
            get = children.get
            for unit, value in pairs:
                child = get(unit)
                if child is None:
                    if closed:
                        continue
                    child = grow(node, unit)
                log_prob = (after_blank if unit == last else base) + value + child.score
                if boosts is not None:
                    log_prob += boosts.by_node.get(child.key, boosts.elsewhere)
                if log_prob <= cut_off:
                    continue
                if log_prob - threshold > cut_off:
                    cut_off = log_prob - threshold
                if link is None and last != SEPARATOR:
                    link = prefix.token()
                fresh[key ^ child.key] = (log_prob, child, history, link, prefix, None)
            if node.words and total + separator + margin > cut_off:
                for word, after, score in prefix.ends or self._word_ends(prefix):
                    log_prob = base + separator + score
                    if log_prob > cut_off:
                        same = fresh.get(after.key ^ root.key)
                        if same is None:
                            fresh[after.key ^ root.key] = (log_prob, root, after, prefix.token(), prefix, word)
                        elif log_prob > same[0]:
                            log_sum = _log_add(log_prob, same[0])
                            fresh[after.key ^ root.key] = (log_sum, root, after, prefix.token(), prefix, word)
                        else:
                            fresh[after.key ^ root.key] = (_log_add(log_prob, same[0]), *same[1:])
        return self._prune(beam, row, fresh, frame, cut_off)

    def _prune(
        self, beam: list[_Prefix], row: list[float], fresh: dict[int, _Candidate], frame: int, cut_off: float
    ) -> list[_Prefix]:
        """Let every prefix stay as it is through the frame, add the candidates, and keep the best."""
        config, blank = self.config, row[BLANK]
        arrivals: list[tuple[_Prefix, _Candidate]] = []
        best = -INFINITY
        for prefix in beam:
            unit = prefix.node.unit
            log_blank = prefix.total + blank
            # At a word's start the last unit is a separator, and any more of them change nothing.
            log_unit = (prefix.total if unit == SEPARATOR else prefix.log_unit) + row[unit]
            if log_unit > log_blank:
                prefix.end = frame + 1
                prefix.mass += math.exp(row[unit])
            if fresh:
                same = fresh.pop(prefix.key, None)
                if same is not None:
                    if same[0] > log_blank and same[0] > log_unit:
                        arrivals.append((prefix, same))
                    log_unit = _log_add(log_unit, same[0])
            prefix.log_blank, prefix.log_unit = log_blank, log_unit
            prefix.total = total = _log_add(log_blank, log_unit)
            best = max(best, total)
        cut_off = max(cut_off, best - config.beam_threshold)
        totals = [prefix.total for prefix in beam if prefix.total >= cut_off]
        totals += [candidate[0] for candidate in fresh.values() if candidate[0] >= cut_off]
        if len(totals) > config.beam_width:
            totals.sort(reverse=True)
            cut_off = totals[config.beam_width - 1]
        survivors = [prefix for prefix in beam if prefix.total >= cut_off]
        for candidate in fresh.values():
            if candidate[0] >= cut_off:
                prefix = _Prefix(candidate[2], candidate[1], candidate[0])
                prefix.alternatives = candidate[4].alternatives if candidate[5] is None else {}
                _arrive(prefix, candidate, row, frame)
                survivors.append(prefix)
        for prefix, candidate in arrivals:
            _arrive(prefix, candidate, row, frame)
        survivors.sort(key=_by_total, reverse=True)
        del survivors[config.beam_width :]
        return _recombine(survivors) if config.recombine else survivors

    def _word_ends(self, prefix: _Prefix) -> list[tuple[WordEnd, _History, float]]:
        """The words that may end here, the histories they make, and what they add to the score; kept in the prefix."""
        history, lm = prefix.history, self.lm
        ends: list[tuple[WordEnd, _History, float]] = []
        for word in prefix.node.words:
            score, lm_state, boosts = word.fixed, history.lm_state, history.boosts
            if lm is not None and word.lm_id is not None:
                log_prob, lm_state = lm.score(lm_state, word.lm_id)
                score += self.config.lm_weight * log_prob
            if boosts is not None and self.hot_words is not None:
                following, gain = self.hot_words.hot_words.step(boosts.state, word.text)
                score += gain
                boosts = self.hot_words.boosts(following)
            ends.append((word, _History(hash((history.key, word.key)), lm_state, boosts), score))
        prefix.ends = ends
        return ends

    def _given(self, prefix: _Prefix) -> float:
        """The part of a prefix's score that is only an expectation: look-ahead and credit within the word."""
        node, boosts = prefix.node, prefix.history.boosts
        if node.unit == SEPARATOR:
            return 0.0
        return node.score + (boosts.by_node.get(node.key, boosts.elsewhere) if boosts is not None else 0.0)

    def _endings(self, state: BeamState, final: bool) -> list[Ending]:
        """All ways to take what was heard for complete, the best first. A last word that is only begun is left out."""
        endings: dict[int, Ending] = {}
        rest: list[Ending] = []
        for prefix in state._beam:
            base = prefix.total - self._given(prefix) + state.offset
            alternatives = prefix.alternatives
            if prefix.node.unit == SEPARATOR:
                ways = [(base, prefix.history, prefix.word, alternatives)]
            else:
                tokens = pack_tokens(prefix.token(), state.frames)
                ways = [
                    (base + score, h, WordLink(prefix.word, word.text, h.key, tokens, alternatives), {})
                    for word, h, score in prefix.ends or self._word_ends(prefix)
                ]
                if not ways:
                    rest.append(Ending(base, prefix.history.key, prefix.word, alternatives))
            for score, history, link, rivals in ways:
                score += self._end_score(history) if final else 0.0
                same = endings.get(history.key)
                if same is not None:
                    if same.score > score:
                        link, rivals = same.word, same.alternatives
                    score = _log_add(score, same.score)
                endings[history.key] = Ending(score, history.key, link, rivals)
        if not endings or not final:
            for ending in rest:
                endings.setdefault(ending.key, ending)
        return sorted(endings.values(), key=attrgetter("score"), reverse=True)

    def _end_score(self, history: _History) -> float:
        """What the end of the utterance adds: a phrase that was only begun loses its credit."""
        score = history.boosts.elsewhere if history.boosts is not None else 0.0
        if self.lm is not None and self._sentence_end is not None:
            score += self.config.lm_weight * self.lm.score(history.lm_state, self._sentence_end)[0]
        return score

    def best(self, state: BeamState) -> Hypothesis:
        """The best hypothesis so far, settled words included; it may yet change."""
        return self._complete(state, trace(self._endings(state, False), 1, self.config.confidence))[0]

    def finish(self, state: BeamState, n_best: int = 1) -> list[Hypothesis]:
        """The utterance is over: up to ``n_best`` hypotheses with different texts, the best first."""
        if n_best < 1:
            raise DecodingError(f"n_best must be at least 1, not {n_best}")
        return self._complete(state, trace(self._endings(state, True), n_best, self.config.confidence))

    def _complete(self, state: BeamState, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        words = tuple(word for part in state.settled for word in part.words)
        tokens = tuple(token for part in state.settled for token in part.tokens)
        return [Hypothesis(words + h.words, h.score, tokens + h.tokens) for h in hypotheses]

    def take_settled(self, state: BeamState) -> tuple[BeamState, tuple[DecodedWord, ...]]:
        """Words that will not change, and a state without them: call it now and then on a stream that never ends."""
        return replace(state, settled=()), tuple(word for part in state.settled for word in part.words)

    def _settle(
        self, beam: list[_Prefix], settled: tuple[Hypothesis, ...], frame: int
    ) -> tuple[list[_Prefix], tuple[Hypothesis, ...]]:
        """Cut off the words that ended more than ``history_frames`` ago, where all prefixes agree on them."""
        word = beam[0].word
        while word is not None and word.end > frame - self.config.history_frames:
            word = word.previous
        if word is None or not all(reaches(prefix.word, word.key) for prefix in beam):
            return beam, settled
        whole = trace([Ending(0.0, 0, beam[0].word, beam[0].alternatives)], 1, self.config.confidence)[0]
        count = sum(1 for w in whole.words if w.end <= word.end)
        tokens = tuple(token for token in whole.tokens if token.end <= word.end)
        known: dict[int, WordLink | None] = {}
        for prefix in beam:
            prefix.word = cut(prefix.word, word.key, known)
            prefix.alternatives = {}
        return beam, (*settled, Hypothesis(whole.words[:count], 0.0, tokens))


def _choose_units(log_probs: LogProbs, config: BeamConfig) -> list[tuple[list[float], list[tuple[int, float]]]]:
    """For each frame all log-probabilities, and the likeliest units (no blank, no separator) with theirs, best first."""
    rest = log_probs[:, SEPARATOR + 1 :]
    top = int(min(config.token_top_k, rest.shape[1]))
    order = np.argsort(-rest, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(rest, order, axis=1)
    counts = (values >= config.token_min_log_prob).sum(axis=1).tolist()
    return [
        (row, list(zip(units[:n], chosen[:n], strict=True)))
        for row, units, chosen, n in zip(
            log_probs.tolist(), (order + SEPARATOR + 1).tolist(), values.tolist(), counts, strict=True
        )
    ]


def _log_add(a: float, b: float) -> float:
    """ln(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    difference = b - a
    if not difference > -40.0:  # so also when both are -inf
        return a
    return a + math.log1p(math.exp(difference))


def _arrive(prefix: _Prefix, candidate: _Candidate, row: list[float], frame: int) -> None:
    """Set a prefix's way here to that of a candidate."""
    _, node, history, link, source, word = candidate
    if word is not None:
        tokens = pack_tokens(link, frame)
        prefix.word = WordLink(source.word, word.text, history.key, tokens, source.alternatives)
        prefix.tokens = None
    else:
        prefix.word, prefix.tokens = source.word, link
    prefix.start, prefix.end = frame, frame + 1
    prefix.mass = math.exp(row[node.unit])


def _recombine(beam: list[_Prefix]) -> list[_Prefix]:
    """Of prefixes with the same future keep the best; the others become alternatives of its words."""
    kept: dict[int, _Prefix] = {}
    for prefix in beam:
        first = kept.setdefault(prefix.history.future ^ prefix.node.key, prefix)
        if first is not prefix:
            difference = prefix.total - first.total
            rivals = {key: (d + difference, word) for key, (d, word) in prefix.alternatives.items()}
            rivals[prefix.history.key] = difference, prefix.word
            merged = dict(first.alternatives)
            for key, rival in rivals.items():
                if key not in merged or merged[key][0] < rival[0]:
                    merged[key] = rival
            first.alternatives = merged
    return beam if len(kept) == len(beam) else list(kept.values())
