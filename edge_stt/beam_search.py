"""One frame of CTC prefix beam search: the inner loop, on plain floats and slots.

The search is that of A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional
recurrent DNNs" (arXiv:1408.2873, 2014): each prefix carries the probability of all alignments that end in a blank, and
of those that end in its last unit. A prefix is its words so far (a `History`) and a node of the `PrefixTree`, the
beginning of the next word. Separators at the edges and repeated ones mean nothing: texts are words.

What makes it fast: units are chosen with numpy for many frames at once; a word's language model score is computed once
for each prefix; and since no node scores better than its parent, loops over sorted prefixes and sorted units are left
as soon as nothing can come near the best.
"""

from __future__ import annotations

from math import exp, log1p
from operator import attrgetter

import numpy as np

from .beam_config import INFINITY, BeamConfig
from .decoding import LogProbs
from .hotwords import Boosts, BoundHotWords
from .letter_lm import LetterModel
from .lm import LanguageModel, State
from .prefix_tree import Node, PrefixTree, WordEnd, child_key
from .traceback import Alternatives, TokenLink, WordLink, pack_tokens
from .units import BLANK, SEPARATOR

NEGLIGIBLE = 36.0  # what is this much (natural log) smaller vanishes in a sum of two floats

# All log-probabilities of a frame, and its likeliest units (no blank, no separator) with theirs, best first.
Frame = tuple[list[float], list[tuple[int, float]]]


class History:
    """Words so far, as the future sees them.

    ``key`` tells word sequences apart (a hash of 61 bits: clashes do not happen), ``future`` what can follow them:
    language model state (of words, or of letters) and hot words.
    """

    __slots__ = ("boosts", "future", "key", "lm_state")

    def __init__(self, key: int, lm_state: State, boosts: Boosts | None) -> None:
        self.key, self.lm_state, self.boosts = key, lm_state, boosts
        self.future = hash((lm_state, boosts.state if boosts is not None else 0))


class Prefix:
    """One hypothesis of the beam, and the way it came.

    ``total`` is the log-sum of ``log_blank`` (alignments that end in a blank) and ``log_unit`` (in the last unit);
    all scores are in them. ``start``, ``end`` and ``mass`` (sum of probabilities) are of the last unit's frames on the
    strongest alignment, ``tokens`` the units of the word before it, ``word`` the last whole word. ``ends`` keeps what
    `Search.word_ends` computes. ``letters`` is the state of a language model of letters.
    """

    __slots__ = (
        "alternatives",
        "end",
        "ends",
        "history",
        "key",
        "letters",
        "log_blank",
        "log_unit",
        "mass",
        "node",
        "start",
        "tokens",
        "total",
        "word",
    )

    def __init__(self, history: History, node: Node, log_blank: float, log_unit: float) -> None:
        self.history, self.node = history, node
        self.key = history.key ^ node.key
        self.log_blank, self.log_unit = log_blank, log_unit
        self.total = max(log_blank, log_unit)  # one of them is -inf
        self.ends: list[tuple[WordEnd, History, float]] | None = None
        self.word: WordLink | None = None
        self.tokens: TokenLink | None = None
        self.letters: State = history.lm_state
        self.alternatives: Alternatives = {}
        self.start = self.end = 0
        self.mass = 0.0

    def copy(self) -> Prefix:
        """A prefix that can be changed without changing this one."""
        other = Prefix.__new__(Prefix)
        other.history, other.node, other.key = self.history, self.node, self.key
        other.total, other.log_blank, other.log_unit = self.total, self.log_blank, self.log_unit
        other.ends, other.word, other.tokens, other.alternatives = self.ends, self.word, self.tokens, self.alternatives
        other.start, other.end, other.mass, other.letters = self.start, self.end, self.mass, self.letters
        return other

    def token(self) -> TokenLink:
        """The units of the word at hand, the last one included."""
        return self.tokens, self.node.unit, self.start, self.end, self.mass


# A prefix that may come to be: log-probability (ending in its last unit), that unit, history, units before, the prefix
# it extends, and the word that ends, if one does.
_Candidate = tuple[float, int, History, "TokenLink | None", Prefix, "WordEnd | None"]
_by_total = attrgetter("total")


class Search:
    """The search over one tree with fixed settings. A beam is a list of prefixes, the best first."""

    def __init__(
        self,
        config: BeamConfig,
        tree: PrefixTree,
        lm: LanguageModel | None,
        hot_words: BoundHotWords | None,
        letters: LetterModel | None = None,
    ) -> None:
        """``letters`` instead of ``lm``, where there is no lexicon."""
        self.config, self.tree, self.lm, self.hot_words, self.letters = config, tree, lm, hot_words, letters
        self.margin = hot_words.largest if hot_words is not None else 0.0  # by which a score can rise
        if letters is not None:
            self.margin += letters.largest_bonus

    def start(self) -> list[Prefix]:
        """The beam before the first frame."""
        boosts = self.hot_words.boosts(0) if self.hot_words is not None else None
        state: State = ()
        if self.lm is not None:
            state = self.lm.start_state()
        elif self.letters is not None:
            state = self.letters.start()
        history = History(1, state, boosts)
        return [Prefix(history, self.tree.root, 0.0, -INFINITY)]

    def step(self, beam: list[Prefix], frame: Frame, time: int) -> list[Prefix]:  # noqa: PLR0912 - calls would cost more
        """The beam after one more frame, number ``time``. The prefixes of ``beam`` are changed."""
        row, pairs = frame
        tree = self.tree
        root, closed, unknown = tree.root, not tree.open, tree.unknown_score
        threshold = self.config.beam_threshold
        margin, letters = self.margin, self.letters
        separator = max(row[SEPARATOR], row[BLANK] - self.config.separator_penalty)
        likeliest = max(pairs[0][1] if pairs else -INFINITY, separator)
        cut_off = beam[0].total + row[BLANK] - threshold  # below this nothing survives: the best prefix can always stay
        fresh: dict[int, _Candidate] = {}
        for prefix in beam:
            reach = prefix.total + margin
            if reach + likeliest <= cut_off:
                break
            node, history = prefix.node, prefix.history
            boosts, key, last = history.boosts, history.key, node.unit
            given = node.score
            if boosts is not None and last != SEPARATOR:
                given += boosts.by_node.get(node.key, boosts.elsewhere)
            after_any, after_blank = prefix.total - given, prefix.log_blank - given
            spelled = letters.row(prefix.letters) if letters is not None else None
            link: TokenLink | None = None
            get = (node.children or tree.children(node)).get
            for unit, value in pairs:
                if reach + value <= cut_off:
                    break
                child = get(unit)
                if child is not None:
                    node_key, score = child.key, child.score
                elif closed:
                    continue
                else:
                    node_key, score = child_key(node.key, unit), unknown
                log_prob = (after_blank if unit == last else after_any) + value + score
                if boosts is not None:
                    log_prob += boosts.by_node.get(node_key, boosts.elsewhere)
                if spelled is not None:
                    log_prob += spelled[unit]
                if log_prob <= cut_off:
                    continue
                if log_prob - threshold > cut_off:  # noqa: PLR1730 - max() is slower
                    cut_off = log_prob - threshold
                if link is None and last != SEPARATOR:
                    link = prefix.token()
                fresh[key ^ node_key] = (log_prob, unit, history, link, prefix, None)
            if node.words != () and reach + separator > cut_off:
                for word, after, score in prefix.ends or self.word_ends(prefix):
                    log_prob = after_any + separator + score
                    if spelled is not None:
                        log_prob += spelled[SEPARATOR]
                    if log_prob > cut_off:
                        _offer(fresh, after.key ^ root.key, (log_prob, SEPARATOR, after, prefix.token(), prefix, word))
        return self._select(beam, row, fresh, time, cut_off)

    def _select(
        self, beam: list[Prefix], row: list[float], fresh: dict[int, _Candidate], time: int, cut_off: float
    ) -> list[Prefix]:
        """Let every prefix stay as it is through the frame, add the candidates, and keep the best."""
        config, blank = self.config, row[BLANK]
        arrivals: list[tuple[Prefix, _Candidate]] = []
        best = -INFINITY
        take = fresh.pop
        for prefix in beam:
            total, unit = prefix.total, prefix.node.unit
            log_blank = total + blank
            # Where a word has just ended the last unit is a separator, and any more of them change nothing.
            log_unit = (total if unit == SEPARATOR else prefix.log_unit) + row[unit]
            if log_unit > log_blank:
                prefix.end = time + 1
                prefix.mass += exp(row[unit])
            same = take(prefix.key, None)
            if same is not None:
                if same[0] > log_blank and same[0] > log_unit:
                    arrivals.append((prefix, same))
                log_unit = log_add(log_unit, same[0])
            difference = log_unit - log_blank
            if difference < -NEGLIGIBLE:
                total = log_blank
            elif difference < 0.0:
                total = log_blank + log1p(exp(difference))
            else:
                total = log_add(log_blank, log_unit)
            prefix.log_blank, prefix.log_unit, prefix.total = log_blank, log_unit, total
            if total > best:  # noqa: PLR1730 - max() is slower
                best = total
        cut_off = max(cut_off, best - config.beam_threshold)
        totals = [prefix.total for prefix in beam if prefix.total >= cut_off]
        totals += [candidate[0] for candidate in fresh.values() if candidate[0] >= cut_off]
        if len(totals) > config.beam_width:
            totals.sort(reverse=True)
            cut_off = totals[config.beam_width - 1]
        survivors = [prefix for prefix in beam if prefix.total >= cut_off]
        old = len(survivors)
        for candidate in fresh.values():
            if candidate[0] >= cut_off:
                log_prob, unit, history, _, source, word = candidate
                node = self.tree.root if word is not None else self.tree.grow(source.node, unit)
                prefix = Prefix(history, node, -INFINITY, log_prob)
                self._inherit(prefix, source)
                _arrive(prefix, candidate, row, time)
                survivors.append(prefix)
        for prefix, candidate in arrivals:
            _arrive(prefix, candidate, row, time)
        created = len(survivors) > old
        survivors.sort(key=_by_total, reverse=True)
        del survivors[config.beam_width :]
        return _recombine(survivors) if created and config.recombine else survivors

    def _inherit(self, prefix: Prefix, source: Prefix) -> None:
        """Within a word a new prefix has the rivals of the one it extends, and its letters."""
        if prefix.node.unit == SEPARATOR:
            return
        prefix.alternatives = source.alternatives
        if self.letters is not None:
            prefix.letters = self.letters.after(source.letters, prefix.node.unit)

    def word_ends(self, prefix: Prefix) -> list[tuple[WordEnd, History, float]]:
        """The words that may end here, the histories they make, and what they add to the score; kept in the prefix."""
        history, lm, hot_words, letters = prefix.history, self.lm, self.hot_words, self.letters
        ends: list[tuple[WordEnd, History, float]] = []
        for word in self.tree.words(prefix.node):
            score, lm_state, boosts = word.fixed, history.lm_state, history.boosts
            if lm is not None and word.lm_id is not None:
                log_prob, lm_state = lm.score(lm_state, word.lm_id)
                score += self.config.lm_weight * log_prob
            elif letters is not None:
                lm_state = letters.after(prefix.letters, SEPARATOR)
            if boosts is not None and hot_words is not None:
                following, gain = hot_words.hot_words.step(boosts.state, word.text)
                score += gain
                boosts = hot_words.boosts(following)
            ends.append((word, History(hash((history.key, word.key)), lm_state, boosts), score))
        prefix.ends = ends
        return ends

    @staticmethod
    def expected(prefix: Prefix) -> float:
        """The part of a prefix's score that only anticipates a word: look-ahead, and credit for hot words."""
        node, boosts = prefix.node, prefix.history.boosts
        if boosts is None or node.unit == SEPARATOR:
            return node.score
        return node.score + boosts.by_node.get(node.key, boosts.elsewhere)


def choose_units(log_probs: LogProbs, config: BeamConfig) -> list[Frame]:
    """What the search looks at in each of the frames, float32 ``[frames, units]``."""
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


def log_add(a: float, b: float) -> float:
    """ln(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    difference = b - a
    if not difference > -NEGLIGIBLE:  # so also when both are -inf
        return a
    return a + log1p(exp(difference))


def _offer(fresh: dict[int, _Candidate], key: int, candidate: _Candidate) -> None:
    """Add a word's end. Pronunciations of one word meet here: probabilities add up, the stronger gives the times."""
    same = fresh.get(key)
    if same is not None:
        stronger = candidate if candidate[0] > same[0] else same
        candidate = (log_add(candidate[0], same[0]), *stronger[1:])
    fresh[key] = candidate


def _arrive(prefix: Prefix, candidate: _Candidate, row: list[float], time: int) -> None:
    """Set a prefix's way here to that of a candidate."""
    _, unit, history, link, source, word = candidate
    if word is not None:
        tokens = pack_tokens(link, time)
        prefix.word = WordLink(source.word, word.text, history.key, tokens, source.alternatives)
        prefix.tokens = None
    else:
        prefix.word, prefix.tokens = source.word, link
    prefix.start, prefix.end = time, time + 1
    prefix.mass = exp(row[unit])


def _recombine(beam: list[Prefix]) -> list[Prefix]:
    """Of prefixes with the same future keep the best; the others become alternatives of its words."""
    kept: dict[int, Prefix] = {}
    for prefix in beam:
        first = kept.setdefault(prefix.history.future ^ prefix.node.key, prefix)
        if first is not prefix:
            difference = prefix.total - first.total
            merged = dict(first.alternatives)
            for key, (lower, word) in ((prefix.history.key, (0.0, prefix.word)), *prefix.alternatives.items()):
                if key not in merged or merged[key][0] < lower + difference:
                    merged[key] = lower + difference, word
            first.alternatives = merged
    return list(kept.values())
