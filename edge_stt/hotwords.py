"""Hot words: words and phrases that are made likelier, because the user knows they will be said.

An Aho–Corasick automaton over words (A. V. Aho and M. J. Corasick, "Efficient string matching: an aid to bibliographic
search", CACM 18, 1975) follows every phrase at once. The weight of a phrase is credited bit by bit as its words, and
the units within them, are recognised, so that pruning spares a phrase that has only begun; the moment a prefix fails,
what it had been given is taken back. Only whole phrases change a score for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import DataError, DecodingError, reason
from .lexicon import MAX_UNITS, Lexicon
from .prefix_tree import PrefixTree
from .units import SEPARATOR, UnitSet

DEFAULT_WEIGHT, MAX_WEIGHT = 2.0, 100.0


class _Pronunciation(Protocol):
    @property
    def phonemes(self) -> Sequence[str]: ...


class Pronouncer(Protocol):
    """What gives a pronunciation to hot words outside the lexicon (`edge_stt.pronunciation.Pronouncer`)."""

    def pronounce(self, word: str, n_best: int = 1) -> Sequence[_Pronunciation]:
        """Pronunciations of a word, the likeliest first."""


@dataclass
class _State:
    """The phrases' words matched so far. ``credit`` is given for the unfinished phrase, ``finished`` for whole ones."""

    next: dict[str, int] = field(default_factory=dict)
    fallback: int = 0
    credit: float = 0.0
    finished: float = 0.0


class HotWords:
    """Weighted phrases. A weight is in natural-log units and counts once for each time the whole phrase is said."""

    def __init__(self, entries: Iterable[tuple[str, float]]) -> None:
        """Raises `DecodingError` for anything but pairs of a phrase and a weight above 0 and at most `MAX_WEIGHT`."""
        self.entries: dict[tuple[str, ...], float] = {}
        try:
            listed: list[Any] = list(entries)
        except TypeError as error:
            raise DecodingError(f"hot words are a list of pairs, [('kitchen light', 5.0)], not {entries!r}") from error
        for entry in listed:
            match entry:
                case (str(phrase), int() | float() | np.integer() | np.floating() as weight):
                    pass
                case _:
                    raise DecodingError(f"hot words are pairs such as ('kitchen light', 5.0), not {entry!r}")
            words = tuple(phrase.lower().split())
            if not words:
                raise DecodingError("a hot word is empty; write at least one word")
            if not 0 < weight <= MAX_WEIGHT:
                raise DecodingError(f"the weight of the hot word {phrase!r} must be above 0 and at most {MAX_WEIGHT:g}")
            self.entries[words] = max(float(weight), self.entries.get(words, 0.0))
        self._states = [_State()]
        for words, weight in self.entries.items():
            self._add(words, weight)
        self._link()

    @classmethod
    def from_file(cls, path: Path, default_weight: float = DEFAULT_WEIGHT) -> HotWords:
        """Read lines ``phrase<TAB>weight`` (or the phrase alone); ``#`` begins a comment line.

        Raises `DataError` with file and line for anything else, and for a file with no phrase.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read hot words from {path}: {reason(error)}") from error
        entries: list[tuple[str, float]] = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            phrase, tab, weight = line.partition("\t")
            try:
                entries.append((phrase, float(weight) if tab else default_weight))
                cls(entries[-1:])
            except (ValueError, DecodingError) as error:
                problem = error if isinstance(error, DecodingError) else f"{weight.strip()!r} is not a weight"
                raise DataError(f"{path}:{number}: {problem}; write the phrase, a tab and its weight") from error
        if not entries:
            raise DataError(f"{path} has no hot words; write one phrase a line")
        return cls(entries)

    def written(self, normalise: Callable[[str], str]) -> HotWords:
        """These phrases as transcripts are written: of "Dr. Who" ``doctor who``, of "e-mail" ``e mail``.

        Raises `DecodingError` for a phrase of which nothing is left.
        """
        entries = []
        for words, weight in self.entries.items():
            phrase = " ".join(words)
            if not (text := normalise(phrase)):
                raise DecodingError(f"the hot word {phrase!r} has no letter of the language; write how it is said")
            entries.append((text, weight))
        return HotWords(entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def words(self) -> list[str]:
        """The different words of all phrases, in order of appearance."""
        return list(dict.fromkeys(word for phrase in self.entries for word in phrase))

    def _add(self, words: tuple[str, ...], weight: float) -> None:
        state = 0
        for depth, word in enumerate(words, 1):
            current = self._states[state]
            if word not in current.next:
                current.next[word] = len(self._states)
                self._states.append(_State())
            state = current.next[word]
            if depth < len(words):
                self._states[state].credit = max(self._states[state].credit, weight * depth / len(words))
        self._states[state].finished += weight

    def _link(self) -> None:
        """Breadth first: where to go on when a phrase fails, and what the phrases within a phrase give."""
        queue = list(self._states[0].next.values())
        for index in queue:
            state = self._states[index]
            for word, following in state.next.items():
                self._states[following].fallback = self._follow(state.fallback, word)
                queue.append(following)
            shorter = self._states[state.fallback]
            state.finished += shorter.finished
            state.credit = max(state.credit, shorter.credit)

    def _follow(self, state: int, word: str) -> int:
        while word not in self._states[state].next:
            if state == 0:
                return 0
            state = self._states[state].fallback
        return self._states[state].next[word]

    def step(self, state: int, word: str) -> tuple[int, float]:
        """Say a word: the state after it, and what that adds to the score (negative when credit is given back)."""
        following = self._follow(state, word)
        after = self._states[following]
        return following, after.finished + after.credit - self._states[state].credit

    def credit(self, state: int) -> float:
        """What a state has been given for a phrase that has only begun."""
        return self._states[state].credit

    @property
    def largest(self) -> float:
        """No step, nor a part of one, adds more than this to a score."""
        return max(s.finished + s.credit for s in self._states) + max(s.credit for s in self._states)

    def expected(self, state: int) -> dict[str, float]:
        """Words that begin or continue a phrase, with what each would add to the score."""
        words: dict[str, None] = {}
        here = state
        while True:
            words.update(dict.fromkeys(self._states[here].next))
            if here == 0:
                return {word: self.step(state, word)[1] for word in words}
            here = self._states[here].fallback


@dataclass(frozen=True)
class Boosts:
    """Credit within words, in one state of the automaton: by key of the prefix node, and anywhere else."""

    state: int
    by_node: dict[int, float]
    elsewhere: float


class BoundHotWords:
    """Hot words bound to the tree of a decoder: credit for every prefix of the words that are expected."""

    def __init__(self, hot_words: HotWords, tree: PrefixTree, pronouncer: Pronouncer | None = None) -> None:
        """Raises `DecodingError` for a word that cannot be written in the decoder's units."""
        self.hot_words, self._tree = hot_words, tree
        known = {word: _sequences(word, tree.units, tree.lexicon, pronouncer) for word in hot_words.words}
        lexicon = tree.lexicon
        tree.plant((w, s) for w, sequences in known.items() if lexicon is None or w not in lexicon for s in sequences)
        self._sequences = known
        self._boosts: dict[int, Boosts] = {}
        self.largest = hot_words.largest

    def boosts(self, state: int) -> Boosts:
        """Credits in a state, kept."""
        found = self._boosts.get(state)
        if found is None:
            credit = self.hot_words.credit(state)
            by_node: dict[int, float] = {}
            for word, gain in self.hot_words.expected(state).items():
                for sequence in self._sequences[word]:
                    for depth, node in enumerate(self._tree.path(sequence), 1):
                        by_node[node.key] = max(by_node.get(node.key, -credit), gain * depth / len(sequence))
            found = self._boosts[state] = Boosts(state, by_node, -credit)
        return found


def _sequences(
    word: str, units: UnitSet, lexicon: Lexicon | None, pronouncer: Pronouncer | None
) -> list[tuple[int, ...]]:
    """All unit sequences of a hot word: the lexicon's, or its spelling, or the pronouncer's best two."""
    known = lexicon.pronunciations(word) if lexicon is not None else []
    if known:
        return [tuple(units.index[symbol] for symbol in sequence) for sequence in known]
    spellings: list[Sequence[str]] = [units.spell(word)]
    if units.kind == "phonemes":
        if pronouncer is None:
            raise DecodingError(f"the hot word {word!r} is not in the lexicon, and nothing here can pronounce it")
        try:
            spellings = [pronunciation.phonemes for pronunciation in pronouncer.pronounce(word, 2)]
        except DataError as error:
            raise DecodingError(f"hot words: {error}") from error
        if not spellings:
            raise DecodingError(f"the hot word {word!r} cannot be pronounced; write it with letters")
    for symbols in spellings:
        if len(symbols) > MAX_UNITS:
            raise DecodingError(f"the hot word {word!r} is too long")
        for symbol in symbols:
            if units.index.get(symbol, -1) <= SEPARATOR:
                raise DecodingError(f"{symbol!r} in the hot word {word!r} is not a unit of {units.name!r}")
    return [tuple(units.index[symbol] for symbol in symbols) for symbols in spellings]
