"""Phrases compiled for decoding: the automaton over words, each word written out in units, as flat arrays.

Words that leave the same state share the beginnings of their unit sequences (a small tree a state); words that reach
the same state share all that follows. A word may have several sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import DataError, DecodingError
from .grammar import Grammar
from .hotwords import Pronouncer
from .lexicon import MAX_UNITS, Lexicon
from .units import SEPARATOR, UnitSet
from .word_graph import Label

MAX_NODES = 400_000
MAX_PRONUNCIATIONS = 4  # of the lexicon's, the likeliest
GUESSED_PRONUNCIATIONS = 2  # of a word outside the lexicon

Indices = npt.NDArray[np.intp]


class Speller:
    """Words to unit sequences: the lexicon's, or what the pronouncer gives; characters spell themselves."""

    def __init__(self, units: UnitSet, lexicon: Lexicon | None = None, pronouncer: Pronouncer | None = None) -> None:
        self.units, self.pronouncer = units, pronouncer
        self.lexicon = lexicon if lexicon is not None and lexicon.units.symbols == units.symbols else None

    def sequences(self, word: str) -> list[tuple[int, ...]]:
        """All ways to say a word, the likeliest first. Raises `DecodingError` when there is none."""
        index = self.units.index
        spellings: list[Sequence[str]] = []
        if self.units.kind == "characters":
            spellings = [self.units.spell(word)]
        elif self.lexicon is not None:
            spellings += self.lexicon.pronunciations(word)[:MAX_PRONUNCIATIONS]
        if not spellings and self.pronouncer is not None:
            try:
                guesses = self.pronouncer.pronounce(word, GUESSED_PRONUNCIATIONS)
            except DataError as error:
                raise DecodingError(f"the word {word!r} cannot be pronounced: {error}") from error
            spellings += [guess.phonemes for guess in guesses]
        if not spellings:
            raise DecodingError(f"the word {word!r} is not in the lexicon, and nothing here can pronounce it")
        for symbols in spellings:
            if len(symbols) > MAX_UNITS:
                raise DecodingError(f"the word {word!r} is too long")
            for symbol in symbols:
                if index.get(symbol, -1) <= SEPARATOR:
                    raise DecodingError(f"{symbol!r} in the word {word!r} is not a unit of {self.units.name!r}")
        return [tuple(index[symbol] for symbol in symbols) for symbols in spellings]


@dataclass(frozen=True)
class Acceptor:
    """Nodes, each with a unit. The first are the separators before the words of each state, node 0 the beginning.

    ``unit[node]``; ``parent[node - states]`` is what a node within a word follows, a separator for the first of a word.
    ``repeated``: nodes with the same unit as their parent, between which CTC wants a blank. A *word end* is a node
    where a word is complete: ``end_node``, ``end_label`` (in ``labels``) and ``end_state``, the state after it,
    ascending, those of state i from ``end_first[i - 1]`` on. ``final[state]``: a phrase may end there.
    """

    labels: tuple[Label, ...]
    states: int
    unit: Indices
    parent: Indices
    repeated: Indices
    end_node: Indices
    end_label: Indices
    end_state: Indices
    end_first: Indices
    final: npt.NDArray[np.bool_]

    @property
    def nodes(self) -> int:
        """How many units there are, separators included."""
        return len(self.unit)


def compile_grammar(grammar: Grammar, speller: Speller) -> Acceptor:
    """Write a grammar out in units.

    Raises `DecodingError`, with file, line and column, for a word that cannot be spelled or pronounced.
    """
    sequences: dict[str, list[tuple[int, ...]]] = {}

    def spell(word: str) -> list[tuple[int, ...]]:
        if word not in sequences:
            try:
                sequences[word] = speller.sequences(word)
            except DecodingError as error:
                line, column = grammar.places[word]
                raise DecodingError(f"{grammar.name}:{line}:{column}: {error}") from error
        return sequences[word]

    graph = grammar.graph
    numbers = {grammar.root: 0}
    order = [grammar.root]
    for state in order:  # grows on the way
        for _, target in graph.arcs(state):
            if target not in numbers:
                numbers[target] = len(order)
                order.append(target)
    labels: dict[Label, int] = {}
    units, parents = [SEPARATOR] * len(order), [-1] * len(order)
    ends: dict[tuple[int, int, int], None] = {}  # (state after, node, label); sequences may be the same
    for start, state in enumerate(order):
        children: dict[tuple[int, int], int] = {}
        for label, target in graph.arcs(state):
            for sequence in spell(label[0]):
                node = start
                for unit in sequence:
                    child = children.get((node, unit))
                    if child is None:
                        child = children[node, unit] = len(units)
                        units.append(unit)
                        parents.append(node)
                    node = child
                ends[numbers[target], node, labels.setdefault(label, len(labels))] = None
        if len(units) > MAX_NODES:
            raise DecodingError(f"{grammar.name}: too many phrases: more than {MAX_NODES} units to follow")
    unit_of, parent = np.array(units, np.intp), np.array(parents, np.intp)[len(order) :]
    end = np.array(sorted(ends)).T.copy()
    return Acceptor(
        tuple(labels),
        len(order),
        unit_of,
        parent,
        np.flatnonzero(unit_of[len(order) :] == unit_of[parent]) + len(order),
        end[1],
        end[2],
        end[0],
        np.searchsorted(end[0], np.arange(1, len(order))),
        np.array([graph.is_final(state) for state in order]),
    )
