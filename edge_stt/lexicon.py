"""The lexicon: words ↔ unit sequences (spellings or pronunciations) in an array-based prefix tree.

A node stands for a unit sequence that begins some word. Nodes are numbered breadth first, so the children of a node lie
side by side, in unit order, and one offset a node describes the tree. A word may have several sequences, and a node
several words (homophones). 100,000 words with 125,000 pronunciations take about 5 MB, used straight from the file.

With a language model the tree carries *look-ahead* scores: the best unigram log-probability among the words below a
node (S. Ortmanns, H. Ney, A. Eiden, "Language-model look-ahead for large vocabulary speech recognition", ICSLP 1996).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DecodingError, reason
from .files import write_atomically
from .lm import SPECIAL_WORDS, LanguageModel
from .units import SEPARATOR, UnitSet

MAGIC = b"ESTTLEX1"
LOG_STEP = 0.0625  # weights and scores are kept as bytes: -ln p in steps of this size, 0 … -15.9
MAX_UNITS = 96  # of one word
ROOT = 0

_LAYOUT = (  # the arrays of a file, in order: name and dtype; each begins at a multiple of 8 bytes
    ("unit", "u1"),
    ("first_child", "<u4"),
    ("first_entry", "<u4"),
    ("look_ahead", "u1"),
    ("entry_word", "<u4"),
    ("entry_weight", "u1"),
    ("word_score", "u1"),
    ("word_start", "<u4"),
    ("spelling", "u1"),
)

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.uint32]
Scores = npt.NDArray[np.float32]


def _to_bytes(log_values: npt.ArrayLike) -> Bytes:
    """Natural logs ≤ 0 to bytes."""
    return np.clip(np.rint(np.asarray(log_values, np.float64) / -LOG_STEP), 0, 255).astype(np.uint8)


class _Words(Sequence[str]):
    """The words in order, decoded when asked for: 60,000 Python strings would take 4 MB."""

    def __init__(self, start: Offsets, spelling: Bytes) -> None:
        self._start, self._spelling = start, spelling

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._spelling[self._start[index] : self._start[index + 1]].tobytes().decode()


@dataclass(frozen=True)
class Lexicon:
    """Words and their unit sequences. Build one with `build`, read one with `load`.

    Per node: ``unit`` (of the arc into it), ``first_child`` and ``first_entry`` (one item more than nodes; those of
    node i lie in ``[x[i], x[i + 1])``), ``look_ahead``. Per entry, a word at a node: ``entry_word``, ``entry_weight``.
    Per word, in order: ``word_score`` (unigram), ``word_start`` (in ``spelling``, UTF-8; one item more).
    """

    units: UnitSet
    unit: Bytes
    first_child: Offsets
    first_entry: Offsets
    look_ahead: Bytes
    entry_word: Offsets
    entry_weight: Bytes
    word_score: Bytes
    word_start: Offsets
    spelling: Bytes

    @classmethod
    def build(
        cls, entries: Iterable[tuple[str, Sequence[str]] | tuple[str, Sequence[str], float]], units: UnitSet
    ) -> Lexicon:
        """From ``(word, symbols)`` or ``(word, symbols, natural log weight ≤ 0)``, in any order.

        Raises `DecodingError` for a word with no symbols, too many, or one outside ``units``.
        """
        best: dict[tuple[bytes, str], float] = {}
        for word, symbols, *weight in entries:
            key = bytes(_encode(word, symbols, units)), word
            best[key] = max(best.get(key, -np.inf), *(weight or (0.0,)))
        if not best:
            raise DecodingError("a lexicon needs at least one word")
        ordered = sorted(best)
        words = sorted({word for _, word in ordered})
        word_ids = {word: i for i, word in enumerate(words)}
        blobs = [word.encode() for word in words]
        nodes = _Tree.of([sequence for sequence, _ in ordered])
        # Entries of one node: heaviest first, then alphabetically.
        node, weight_byte = nodes.of_row, _to_bytes([best[key] for key in ordered])
        word_of = np.array([word_ids[word] for _, word in ordered], np.uint32)
        order = np.lexsort((word_of, weight_byte, node))
        count = len(nodes.unit)
        return cls(
            units,
            nodes.unit,
            nodes.first_child,
            np.searchsorted(node[order], np.arange(count + 1)).astype(np.uint32),
            np.zeros(count, np.uint8),
            word_of[order],
            weight_byte[order],
            np.zeros(len(words), np.uint8),
            np.cumsum([0, *map(len, blobs)]).astype(np.uint32),
            np.frombuffer(b"".join(blobs), np.uint8),
        )

    @classmethod
    def of_spellings(cls, words: Iterable[str], units: UnitSet) -> Lexicon:
        """A lexicon for characters: each word is spelled as it is written. Raises `DecodingError` as `build`."""
        return cls.build(((word, units.spell(word)) for word in words), units)

    @classmethod
    def of_model(cls, lm: LanguageModel, units: UnitSet) -> Lexicon:
        """The words of a language model, spelled in ``units``, with its unigram scores.

        Raises `DecodingError` when most of them cannot be spelled so.
        """
        words = [word for word in lm.vocabulary if word not in SPECIAL_WORDS]
        spelled = ((word, units.spell(word)) for word in words)
        spellable = [word for word, of in spelled if set(of) <= units.index.keys() and len(of) <= MAX_UNITS]
        if len(spellable) < 0.5 * len(words) or not spellable:
            raise DecodingError(
                f"the language model's words cannot be written in {units.name!r}: it is for other units"
            )
        return cls.of_spellings(spellable, units).with_unigrams(lm)

    # Words

    @cached_property
    def words(self) -> Sequence[str]:
        """Word id to word, in the order of their UTF-8 bytes."""
        return _Words(self.word_start, self.spelling)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and self.word_id(word) is not None

    def word_id(self, word: str) -> int | None:
        """Number of a word; None when the lexicon has not got it."""
        low, high, words = 0, len(self), self.words
        while low < high:
            middle = (low + high) // 2
            if words[middle] < word:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and words[low] == word else None

    def pronunciations(self, word: str) -> list[tuple[str, ...]]:
        """All unit sequences of a word, the likeliest first; none when the lexicon has not got it."""
        word_id = self.word_id(word)
        if word_id is None:
            return []
        order, first = self._entries_by_word
        entries = order[first[word_id] : first[word_id + 1]]
        nodes = np.searchsorted(self.first_entry, entries, side="right") - 1
        ranked = sorted(zip(self.entry_weight[entries].tolist(), map(self.sequence, nodes.tolist()), strict=True))
        return [tuple(self.units.symbols[u] for u in sequence) for _, sequence in ranked]

    @cached_property
    def _entries_by_word(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        order = np.argsort(self.entry_word, kind="stable")
        return order, np.searchsorted(self.entry_word[order], np.arange(len(self) + 1))

    # The tree

    def children(self, node: int) -> range:
        """Numbers of a node's children, in the order of their units."""
        return range(int(self.first_child[node]), int(self.first_child[node + 1]))

    def entries(self, node: int) -> Iterator[tuple[int, float]]:
        """Word id and natural log weight of each word that ends at a node, heaviest first."""
        for i in range(int(self.first_entry[node]), int(self.first_entry[node + 1])):
            yield int(self.entry_word[i]), -LOG_STEP * int(self.entry_weight[i])

    def sequence(self, node: int) -> tuple[int, ...]:
        """The units from the root to a node."""
        units: list[int] = []
        while node != ROOT:
            units.append(int(self.unit[node]))
            # The array's own type: for another, numpy would copy all of it.
            node = int(np.searchsorted(self.first_child, np.uint32(node), side="right")) - 1
        return tuple(reversed(units))

    def find(self, sequence: Iterable[int]) -> int | None:
        """The node of a sequence of units, if it begins a word."""
        node = ROOT
        for unit in sequence:
            start, end = int(self.first_child[node]), int(self.first_child[node + 1])
            node = start + int(np.searchsorted(self.unit[start:end], unit))
            if node == end or self.unit[node] != unit:
                return None
        return node

    # From units back to words

    def nearest(self, symbols: Sequence[str], n_best: int = 5) -> list[tuple[str, int]]:
        """The words whose sequences have the smallest edit distance to ``symbols``, with that distance.

        Ties are ordered by unigram score, then alphabetically. Raises `DecodingError` for a symbol that is no unit.
        """
        target = _encode("?", symbols, self.units)
        wanted = min(n_best, len(self))
        for bound in range(len(target) + MAX_UNITS):
            found = self._ranked(self._within(target, bound))
            if len(found) >= wanted:
                return found[:wanted]
        return []

    def _ranked(self, nodes: Iterable[tuple[int, int]]) -> list[tuple[str, int]]:
        """Words at nodes, each with its least distance, best first."""
        best: dict[int, tuple[int, float]] = {}
        for node, distance in nodes:
            for word_id, weight in self.entries(node):
                rank = distance, float(self.word_score[word_id]) * LOG_STEP - weight
                best[word_id] = min(rank, best.get(word_id, rank))
        return [(self.words[i], distance) for i, (distance, _) in sorted(best.items(), key=lambda x: (x[1], x[0]))]

    def _within(self, target: list[int], bound: int) -> list[tuple[int, int]]:
        """Nodes with words at edit distance ≤ bound: rows of the Levenshtein table for a whole level of the tree."""
        found: list[tuple[int, int]] = []
        nodes = np.array([ROOT])
        rows = np.arange(len(target) + 1)[None]
        while len(nodes):
            ends = (rows[:, -1] <= bound) & (self.first_entry[nodes + 1] > self.first_entry[nodes])
            found += zip(nodes[ends].tolist(), rows[ends, -1].tolist(), strict=True)
            counts = (self.first_child[nodes + 1] - self.first_child[nodes]).astype(np.intp)
            above = np.repeat(rows, counts, axis=0)
            nodes = np.repeat(self.first_child[nodes] - np.r_[0, np.cumsum(counts)[:-1]], counts) + np.arange(
                len(above)
            )
            nodes = nodes.astype(np.intp)
            rows = np.empty_like(above)
            rows[:, 0] = above[:, 0] + 1
            for column, unit in enumerate(target, 1):
                replaced = above[:, column - 1] + (self.unit[nodes] != unit)
                rows[:, column] = np.minimum(np.minimum(rows[:, column - 1], above[:, column]) + 1, replaced)
            near = rows.min(axis=1) <= bound
            nodes, rows = nodes[near], rows[near]
        return found

    # Look-ahead

    def with_scores(self, word_scores: Scores) -> Lexicon:
        """The same words with unigram scores (natural log, float32 ``[words]``) and the look-ahead that they give."""
        score = _to_bytes(word_scores)
        if score.shape != (len(self),):
            raise DecodingError(f"a lexicon of {len(self)} words needs as many scores, not {score.shape}")
        cost = np.minimum(score[self.entry_word].astype(np.uint16) + self.entry_weight, 255)
        look_ahead = np.full(len(self.unit), 255, np.uint16)
        owner = np.repeat(np.arange(len(self.unit)), (self.first_entry[1:] - self.first_entry[:-1]).astype(np.intp))
        np.minimum.at(look_ahead, owner, cost)
        parents = np.flatnonzero(np.diff(self.first_child.astype(np.intp)))
        # Deepest level first, so that a node's children are final when it asks them.
        levels = [0, 1]
        while levels[-1] < len(self.unit):
            levels.append(int(self.first_child[levels[-1]]))
        for start, end in zip(levels[-2::-1], levels[:0:-1], strict=True):
            inner = parents[np.searchsorted(parents, start) : np.searchsorted(parents, end)]
            if len(inner):
                stop = int(self.first_child[inner[-1] + 1])
                below = np.minimum.reduceat(look_ahead[:stop], self.first_child[inner].astype(np.intp))
                look_ahead[inner] = np.minimum(look_ahead[inner], below)
        return replace(self, word_score=score, look_ahead=look_ahead.astype(np.uint8))

    def with_unigrams(self, lm: LanguageModel) -> Lexicon:
        """The same words with the unigram scores of a language model; a word it has not got scores as unknown."""
        state = lm.empty_state()
        return self.with_scores(np.array([lm.score(state, lm.word_id(w))[0] for w in self.words], np.float32))

    # Files

    def to_bytes(self) -> bytes:
        """The file; equal lexicons give equal bytes."""
        payload = b"".join(
            data + bytes(-len(data) % 8) for data in (getattr(self, n).astype(t).tobytes() for n, t in _LAYOUT)
        )
        header = {
            "units": {"name": self.units.name, "kind": self.units.kind, "symbols": self.units.symbols},
            "lengths": {name: len(getattr(self, name)) for name, _ in _LAYOUT},
        }
        head = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
        head += b" " * (-len(head) % 8)
        content = struct.pack("<Q", len(head)) + head + payload
        return MAGIC + struct.pack("<Q", zlib.crc32(content)) + content

    @classmethod
    def from_buffer(cls, data: bytes | memoryview, what: str = "the lexicon") -> Lexicon:
        """Inverse of `to_bytes`, without a copy; ``what`` names it in errors. Raises `DecodingError` when damaged."""
        view = memoryview(data)
        try:
            if bytes(view[:8]) != MAGIC:
                raise ValueError("wrong first bytes")
            crc32, length = struct.unpack_from("<QQ", view, 8)
            if zlib.crc32(view[16:]) != crc32:
                raise ValueError("checksum")
            header = json.loads(bytes(view[24 : 24 + length]))
            units = UnitSet.from_data(header["units"])
            payload, offset, arrays = view[24 + length :], 0, []
            for name, dtype in _LAYOUT:
                count = header["lengths"][name]
                arrays.append(np.frombuffer(payload, dtype, count, offset))
                offset += -(-arrays[-1].nbytes // 8) * 8
        except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
            raise DecodingError(f"{what} is damaged or something else ({error}); build it again") from error
        return cls(units, *arrays)

    def save(self, path: Path) -> None:
        """Write the file, all of it or nothing, folders made as needed; raises `EdgeSttError` when that cannot be."""
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Map a file into memory. Raises `DecodingError` when it cannot be read or is damaged."""
        try:
            data = np.memmap(path, np.uint8, "r").data
        except (OSError, ValueError) as error:
            raise DecodingError(f"cannot read the lexicon {path}: {reason(error)}") from error
        return cls.from_buffer(data, str(path))


def _encode(word: str, symbols: Sequence[str], units: UnitSet) -> list[int]:
    """Symbols of one word to units; names what is wrong with them."""
    if not symbols or len(symbols) > MAX_UNITS:
        raise DecodingError(f"{word!r} has {len(symbols)} units; a word in the lexicon has 1 to {MAX_UNITS}")
    indices = [units.index.get(symbol, -1) for symbol in symbols]
    for index, symbol in zip(indices, symbols, strict=True):
        if index <= SEPARATOR:
            raise DecodingError(f"{symbol!r} in the word {word!r} is not a unit of {units.name!r}")
    return indices


@dataclass(frozen=True)
class _Tree:
    """The bare tree of sorted sequences; ``of_row`` is the node at which each of them ends."""

    unit: Bytes
    first_child: Offsets
    of_row: npt.NDArray[np.intp]

    @classmethod
    def of(cls, sequences: Sequence[bytes]) -> _Tree:
        lengths = np.array([len(s) for s in sequences])
        depth = int(lengths.max())
        table = np.frombuffer(b"".join(s.ljust(depth, b"\0") for s in sequences), np.uint8).reshape(-1, depth)
        of_row = np.zeros(len(sequences), np.intp)
        units, parents = [np.zeros(1, np.uint8)], [np.zeros(0, np.intp)]
        above = np.zeros(len(sequences), np.intp)  # node of each row's prefix, one level up
        count = 1
        new = np.zeros(len(sequences), bool)  # does the prefix differ from the row before?
        new[0] = True
        for level in range(depth):
            inside = lengths > level
            new[1:] |= table[1:, level] != table[:-1, level]
            starts = new & inside
            here = count + np.cumsum(starts) - 1
            units.append(table[starts, level])
            parents.append(above[starts])
            of_row[lengths == level + 1] = here[lengths == level + 1]
            above = here
            count += int(starts.sum())
        # Breadth-first numbers make parents ascend, so children of node i begin after those of all nodes before it.
        children = np.bincount(np.concatenate(parents), minlength=count)
        first_child = np.cumsum(np.r_[1, children]).astype(np.uint32)
        return cls(np.concatenate(units), first_child, of_row)
