"""From the end of a beam search back to what was said: n-best lists, times, confidences.

Hypotheses that came to have the same future were made one during the search; what lost is kept as an *alternative* of
the words it would replace. Together they are a word lattice, which is enumerated best first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Optional

from .beam_config import ConfidenceConfig
from .decoding import DecodedToken, DecodedWord, Hypothesis

UNSEEN = 1e-3  # weight of the rivals that the beam has lost, beside the word's own of 1
MAX_PATHS_PER_TEXT = 50  # alternatives of alternatives may give the same text many times over

# Tokens of a word, newest first: (before, unit, start, end, sum of probabilities).
TokenLink = tuple[Optional["TokenLink"], int, int, int, float]
# By key of the history: how much lower it scored (≤ 0), and its last word.
Alternatives = dict[int, tuple[float, Optional["WordLink"]]]


@dataclass(frozen=True, slots=True, eq=False)
class WordLink:
    """A word and, through ``previous``, those before it. ``key`` stands for all these words.

    ``alternatives`` are rivals of ``previous`` and its predecessors, not of this word.
    """

    previous: WordLink | None
    text: str
    key: int
    tokens: tuple[DecodedToken, ...]
    alternatives: Alternatives

    @property
    def start(self) -> int:
        """First frame."""
        return self.tokens[0].start

    @property
    def end(self) -> int:
        """Frame after the last."""
        return self.tokens[-1].end


@dataclass(frozen=True)
class Ending:
    """A way to end the utterance: score, last word, and rivals of all its words."""

    score: float
    key: int
    word: WordLink | None
    alternatives: Alternatives


def pack_tokens(link: TokenLink | None, before: int) -> tuple[DecodedToken, ...]:
    """The tokens of a word, oldest first, cut off at frame ``before``."""
    tokens: list[DecodedToken] = []
    while link is not None:
        link, unit, start, end, mass = link
        end = max(start + 1, min(end, before))
        before = start
        tokens.append(DecodedToken(unit, start, end, min(1.0, mass / (end - start))))
    return tuple(reversed(tokens))


_Words = tuple[WordLink, "_Words | None"]  # a list of words: the first, and the rest


@dataclass(order=True)
class _Path:
    """A partly enumerated hypothesis: ``words`` are chosen, ``next`` and what comes before it are open."""

    cost: float
    number: int
    next: WordLink | None = field(compare=False)
    alternatives: Alternatives = field(compare=False)
    words: _Words | None = field(compare=False)


def enumerate_paths(endings: Sequence[Ending], n_best: int) -> list[tuple[float, list[WordLink]]]:
    """Scores and words of the ``n_best`` different texts, the best first."""
    numbers = count()
    heap = [_Path(-e.score, next(numbers), e.word, e.alternatives, None) for e in endings]
    heapq.heapify(heap)
    found: dict[tuple[str, ...], tuple[float, list[WordLink]]] = {}
    for _ in range(MAX_PATHS_PER_TEXT * n_best):
        if not heap or len(found) == n_best:
            break
        path = heapq.heappop(heap)
        word, alternatives, words = path.next, path.alternatives, path.words
        while True:
            for difference, other in alternatives.values():
                heapq.heappush(heap, _Path(path.cost - difference, next(numbers), other, {}, words))
            if word is None:
                break
            words = (word, words)
            alternatives, word = word.alternatives, word.previous
        chain: list[WordLink] = []
        while words is not None:
            chain.append(words[0])
            words = words[1]
        found.setdefault(tuple(w.text for w in chain), (-path.cost, chain))
    return list(found.values())


def trace(endings: Sequence[Ending], n_best: int, config: ConfidenceConfig) -> list[Hypothesis]:
    """The ``n_best`` hypotheses with times and confidences; one without words when nothing was said."""
    return [
        Hypothesis(
            _with_confidence(chain, score, endings, config),
            score,
            tuple(token for word in chain for token in word.tokens),
        )
        for score, chain in enumerate_paths(endings, n_best)
    ]


def _with_confidence(
    chain: list[WordLink], score: float, endings: Iterable[Ending], config: ConfidenceConfig
) -> tuple[DecodedWord, ...]:
    """Odds of each word against the rivals that do not have it, and its acoustic probability, made a confidence."""
    places = {word.key: i for i, word in enumerate(chain)}
    doubt = [0.0] * len(chain)

    def compete(difference: float, rival: WordLink | None, until: int) -> None:
        """Words of ``chain[:until]`` that a rival has not got are doubted."""
        others: set[str] = set()
        while rival is not None and rival.key not in places:
            others.add(rival.text)
            rival = rival.previous
        first = places[rival.key] + 1 if rival is not None else 0
        weight = math.exp(min(difference, 50.0))
        for i in range(first, until):
            if chain[i].text not in others:
                doubt[i] += weight

    for i, word in enumerate(chain):
        for difference, rival in word.alternatives.values():
            compete(difference, rival, i)
    own = chain[-1].key if chain else None
    for ending in endings:
        if ending.word is None or ending.word.key != own:
            compete(ending.score - score, ending.word, len(chain))
        else:
            for difference, rival in ending.alternatives.values():
                compete(ending.score + difference - score, rival, len(chain))
    return tuple(
        DecodedWord(word.text, word.start, word.end, _confidence(word, against, config))
        for word, against in zip(chain, doubt, strict=True)
    )


def _confidence(word: WordLink, doubt: float, config: ConfidenceConfig) -> float:
    odds = -math.log(doubt + UNSEEN)
    acoustics = sum(math.log(max(t.probability, 1e-6)) for t in word.tokens) / len(word.tokens)
    x = config.competition * odds + config.acoustics * acoustics + config.offset
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, x))))


class Cut:
    """Copies of chains of words without the word ``key`` stands for and all before it.

    Rivals that reach back further than the cut are dropped, and rivals keep no rivals of their own. Chains share their
    beginnings, and so do their copies.
    """

    def __init__(self, key: int) -> None:
        self.key = key
        self._copies: dict[int, WordLink | None] = {}  # by id of the original
        self._plain_copies: dict[int, WordLink | None] = {}

    def shorten(self, word: WordLink | None, alternatives: Alternatives) -> tuple[WordLink | None, Alternatives]:
        """A chain that goes back to the cut, and its rivals, without what lies before."""
        chain = self._until(word, self._copies)
        copy = self._copies.get(id(chain[-1].previous)) if chain else self._copies.get(id(word))
        for link in reversed(chain):
            rivals = self._rivals(link.alternatives)
            copy = self._copies[id(link)] = WordLink(copy, link.text, link.key, link.tokens, rivals)
        return copy, self._rivals(alternatives)

    def _until(self, word: WordLink | None, known: dict[int, WordLink | None]) -> list[WordLink]:
        """A chain, newest first, as far as the cut or as what is known."""
        chain: list[WordLink] = []
        while word is not None and word.key != self.key and id(word) not in known:
            chain.append(word)
            word = word.previous
        return chain

    def _rivals(self, alternatives: Alternatives) -> Alternatives:
        kept: Alternatives = {}
        for key, (difference, word) in alternatives.items():
            chain = self._until(word, self._plain_copies)
            first = chain[-1].previous if chain else word
            if first is None or self._plain_copies.get(id(first), first) is None:
                self._plain_copies.update((id(link), None) for link in chain)  # it goes back before the cut
                continue
            copy = self._plain_copies.get(id(first))
            for link in reversed(chain):
                copy = self._plain_copies[id(link)] = WordLink(copy, link.text, link.key, link.tokens, {})
            kept[key] = difference, copy
        return kept


def reaches(word: WordLink | None, key: int) -> bool:
    """Whether a chain of words goes back to ``key``."""
    while word is not None and word.key != key:
        word = word.previous
    return word is not None
