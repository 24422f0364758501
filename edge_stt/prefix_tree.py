"""The tree that a beam search walks: prefixes of words, made from a lexicon as they are reached.

Three kinds of decoding use it. *Lexicon*: only words of a `Lexicon`. *Open vocabulary*: any string of units; what the
lexicon (if there is one) does not know is an unknown word. Words can be *planted* in either (hot words).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from .lexicon import LOG_STEP, ROOT, Lexicon
from .lm import LanguageModel
from .units import SEPARATOR, UnitSet

MAX_NODES = 30_000  # kept in memory; beyond that the tree is grown anew from its root


@dataclass(frozen=True)
class WordScores:
    """What turns a word's log-probabilities into its part of a hypothesis' score."""

    lm_weight: float
    word_insertion_bonus: float
    unknown_word_score: float


@dataclass(frozen=True, slots=True)
class WordEnd:
    """A word that ends at a node: ``fixed`` is the part of its score that needs no context."""

    text: str
    key: int
    lm_id: int | None
    fixed: float


class Node:
    """A prefix of words. ``score`` is the best that a word below it can add to the score (the look-ahead).

    ``key`` tells nodes apart by what they stand for, so that a tree that is grown anew has the same keys. ``children``
    and ``words`` are None until they are asked for.
    """

    __slots__ = ("children", "index", "key", "score", "text", "unit", "words")

    def __init__(self, unit: int, key: int, score: float, index: int | None, text: str = "") -> None:
        self.unit, self.key, self.score, self.index, self.text = unit, key, score, index, text
        self.children: dict[int, Node] | None = None
        self.words: tuple[WordEnd, ...] | None = None


class PrefixTree:
    """Nodes on demand. Without a lexicon every string of units is a word (open vocabulary)."""

    def __init__(
        self,
        units: UnitSet,
        scores: WordScores,
        lexicon: Lexicon | None = None,
        lm: LanguageModel | None = None,
        open_vocabulary: bool = False,
    ) -> None:
        self.units, self.scores, self.lexicon, self.lm = units, scores, lexicon, lm
        self.open = open_vocabulary or lexicon is None
        self._glue = " " if units.kind == "phonemes" else ""
        self._bonus = scores.word_insertion_bonus if lm is not None else 0.0
        self._planted: list[tuple[str, Sequence[int]]] = []
        self._unknown_id = lm.word_id("<unk>") if lm is not None else None
        self.unknown_score = 0.0  # of an unknown word without context
        self._scores = [0.0] * 256  # of a node, by its look-ahead in the lexicon
        if lm is not None and self._unknown_id is not None:
            unigram = lm.score(lm.empty_state(), self._unknown_id)[0]
            self.unknown_score = scores.lm_weight * unigram + scores.unknown_word_score
            self._scores = [-LOG_STEP * cost * scores.lm_weight for cost in range(256)]
            if self.open:
                self._scores = [max(score, self.unknown_score) for score in self._scores]
        if lexicon is not None:  # elements of a memoryview cost a third of a numpy array's
            arrays = lexicon.first_child, lexicon.first_entry, lexicon.unit, lexicon.look_ahead
            self._views = [np.ascontiguousarray(array).data for array in arrays]
        self.root = self._new_root()

    def _new_root(self) -> Node:
        self._count = 0
        root = Node(SEPARATOR, hash((0, 0)), 0.0, ROOT if self.lexicon is not None else None)
        root.words = ()
        self.root = root
        for word, sequence in self._planted:
            self._plant(word, sequence)
        return root

    def forget(self) -> None:
        """Start anew from the root when there are many nodes; prefixes in use keep theirs."""
        if self._count > MAX_NODES:
            self.root = self._new_root()

    def children(self, node: Node) -> dict[int, Node]:
        """A node's children by unit, as far as the lexicon has them; those of an open vocabulary come with `grow`."""
        if node.children is None:
            node.children = {}
            lexicon = self.lexicon
            if node.index is not None and lexicon is not None:
                first_child, first_entry, all_units, look_ahead = self._views
                first, end = first_child[node.index], first_child[node.index + 1]
                units = all_units[first:end].tolist()
                bounds = first_entry[first : end + 1].tolist()
                costs = look_ahead[first:end].tolist()
                for i, (unit, cost) in enumerate(zip(units, costs, strict=True)):
                    child = self._make(node, unit, first + i, self._scores[cost])
                    if bounds[i] == bounds[i + 1] and not self.open:
                        child.words = ()
                    node.children[unit] = child
        return node.children

    def grow(self, node: Node, unit: int) -> Node:
        """The child of a node by ``unit``; where the lexicon has none, an unknown word begins."""
        children = self.children(node)
        child = children.get(unit)
        if child is None:
            child = children[unit] = self._make(node, unit, None, self.unknown_score)
        return child

    def _make(self, parent: Node, unit: int, index: int | None, score: float) -> Node:
        self._count += 1
        text = parent.text + self._glue + self.units.symbols[unit] if self.open else ""
        return Node(unit, child_key(parent.key, unit), score, index, text)

    def words(self, node: Node) -> tuple[WordEnd, ...]:
        """The words that end at a node: the lexicon's, or in an open vocabulary what is spelled."""
        if node.words is None:
            node.words = ()
            if node.index is not None and self.lexicon is not None:
                lexicon = self.lexicon
                node.words = tuple(
                    self._word_end(lexicon.words[w], weight) for w, weight in lexicon.entries(node.index)
                )
            if self.open and node.text and not node.words:
                node.words = (self._unknown_word(node.text.strip()),)
        return node.words

    def plant(self, words: Iterable[tuple[str, Sequence[int]]]) -> None:
        """Add words by their unit sequences, whatever the lexicon has."""
        for word, sequence in words:
            self._planted.append((word, sequence))
            self._plant(word, sequence)

    def _plant(self, word: str, sequence: Sequence[int]) -> None:
        node = self.root
        end = self._word_end(word, 0.0)
        for unit in sequence:
            node = self.grow(node, unit)
            node.score = max(node.score, self.unknown_score)
        others = tuple(other for other in self.words(node) if other.text != word)
        node.words = (*others, end)

    def path(self, sequence: Sequence[int]) -> list[Node]:
        """The nodes of a unit sequence, one a unit."""
        nodes, node = [], self.root
        for unit in sequence:
            node = self.grow(node, unit)
            nodes.append(node)
        return nodes

    def _word_end(self, text: str, log_weight: float) -> WordEnd:
        lm_id = self.lm.word_id(text) if self.lm is not None else None
        if lm_id is not None and lm_id == self._unknown_id:
            log_weight += self.scores.unknown_word_score
        return WordEnd(text, word_key(text), lm_id, self._bonus + log_weight)

    def _unknown_word(self, text: str) -> WordEnd:
        fixed = self._bonus + (self.scores.unknown_word_score if self.lm is not None else 0.0)
        return WordEnd(text, word_key(text), self._unknown_id, fixed)


def child_key(key: int, unit: int) -> int:
    """The key of a node's child, there yet or not."""
    return hash((key, unit))


def word_key(text: str) -> int:
    """A number for a word that is the same in every run (``hash(str)`` is not)."""
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "little")
