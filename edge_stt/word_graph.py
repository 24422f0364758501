"""Minimal automata over words, put together from small ones: what a grammar of phrases is compiled to.

A state is a number. States are hash-consed: two with the same arcs and the same finality are one, so that an automaton
is deterministic and minimal at every moment (J. Daciuk et al., "Incremental construction of minimal acyclic
finite-state automata", Computational Linguistics 26, 2000). There are no loops: every phrase has an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import DecodingError

MAX_WORDS = 200  # of one phrase
MAX_STATES = 500_000

Label = tuple[str, tuple[str, ...]]
"""A word, and the names of the slots it stands in, the outermost first."""

Arcs = tuple[tuple[Label, int], ...]


class WordGraph:
    """A store of states. ``EMPTY`` accepts the empty phrase and nothing else."""

    EMPTY = 0

    def __init__(self) -> None:
        self._known: dict[tuple[bool, Arcs], int] = {}
        self._states: list[tuple[bool, Arcs]] = []
        self._longest: list[int] = []
        self._unions: dict[frozenset[int], int] = {}
        self._joined: dict[tuple[int, int], int] = {}
        self._state(True, ())

    def __len__(self) -> int:
        return len(self._states)

    def is_final(self, state: int) -> bool:
        """Whether a phrase may end here."""
        return self._states[state][0]

    def arcs(self, state: int) -> Arcs:
        """Words that can follow, with the states after them."""
        return self._states[state][1]

    def _state(self, final: bool, arcs: Iterable[tuple[Label, int]]) -> int:
        key = final, tuple(sorted(arcs))
        found = self._known.get(key)
        if found is None:
            if len(self._states) >= MAX_STATES:
                raise DecodingError(f"the phrases need more than {MAX_STATES} states; divide them into several files")
            found = self._known[key] = len(self._states)
            self._states.append(key)
            self._longest.append(max((1 + self._longest[target] for _, target in key[1]), default=0))
        return found

    def word(self, word: str) -> int:
        """The automaton of a single word."""
        return self._state(False, [((word, ()), self.EMPTY)])

    def words(self, words: Sequence[str]) -> int:
        """The automaton of words one after another."""
        state = self.EMPTY
        for word in reversed(words):
            state = self._state(False, [((word, ()), state)])
        return state

    def union(self, states: Iterable[int]) -> int:
        """What any of them accepts."""
        members = frozenset(states)
        if len(members) == 1:
            return next(iter(members))
        found = self._unions.get(members)
        if found is None:
            targets: dict[Label, set[int]] = {}
            for state in members:
                for label, target in self.arcs(state):
                    targets.setdefault(label, set()).add(target)
            final = any(map(self.is_final, members))
            found = self._state(final, [(label, self.union(after)) for label, after in targets.items()])
            self._unions[members] = found
        return found

    def optional(self, state: int) -> int:
        """What it accepts, or nothing."""
        return self.union((state, self.EMPTY))

    def join(self, first: int, second: int) -> int:
        """What ``first`` accepts, followed by what ``second`` accepts."""
        if first == self.EMPTY:
            return second
        if self._longest[first] + self._longest[second] > MAX_WORDS:
            raise DecodingError(f"a phrase has more than {MAX_WORDS} words")
        found = self._joined.get((first, second))
        if found is None:
            found = self._state(False, [(label, self.join(target, second)) for label, target in self.arcs(first)])
            if self.is_final(first):
                found = self.union((found, second))
            self._joined[first, second] = found
        return found

    def in_slot(self, state: int, slot: str) -> int:
        """The same, with all its words in a slot."""
        known: dict[int, int] = {}

        def copy(old: int) -> int:
            if old not in known:
                arcs = [((word, (slot, *slots)), copy(target)) for (word, slots), target in self.arcs(old)]
                known[old] = self._state(self.is_final(old), arcs)
            return known[old]

        return copy(state)

    def without(self, state: int, words: Sequence[str]) -> int | None:
        """What it accepts but for these words; None when nothing is left."""
        final = self.is_final(state) and bool(words)
        arcs: list[tuple[Label, int]] = []
        for label, target in self.arcs(state):
            left = self.without(target, words[1:]) if words and label[0] == words[0] else target
            if left is not None:
                arcs.append((label, left))
        return self._state(final, arcs) if final or arcs else None

    def count(self, state: int) -> int:
        """How many different phrases it accepts, words in different slots being different."""
        known: dict[int, int] = {}

        def paths(at: int) -> int:
            if at not in known:
                known[at] = self.is_final(at) + sum(paths(target) for _, target in self.arcs(at))
            return known[at]

        return paths(state)

    def accepts(self, state: int, words: Sequence[str]) -> bool:
        """Whether it accepts these words, in whatever slots."""
        states = {state}
        for word in words:
            states = {target for at in states for (label, _), target in self.arcs(at) if label == word}
        return any(map(self.is_final, states))
