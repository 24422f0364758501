"""Words to phonemes on the device: a dictionary that is data, and a learned model for the words outside it.

The model is a joint-sequence model (M. Bisani and H. Ney, "Joint-sequence models for grapheme-to-phoneme conversion",
Speech Communication 50, 2008): a back-off n-gram over graphones, each one or two letters paired with at most two
phonemes. ``train/pronunciation.py`` learns it; this module reads and decodes it with the standard library and numpy.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DataError

Phonemes = tuple[str, ...]
_Beam = dict[tuple[int, Phonemes], float]  # (state, phonemes so far) -> cost

MODEL_MAGIC = b"ESTTG2P1"
DICTIONARY_MAGIC = b"ESTTDIC1"
START, END = 0, 1  # graphone ids of the word's edges in every model
LOG_STEP = 0.0625  # log-probabilities are stored in 256 steps of this size, 0 … -15.9
BACKOFF_ZERO = 63  # stored back-off weights: 63 steps above 1, 192 below
_FIRST_SYMBOL = 0x21  # dictionary lines write phoneme i as the printable character 0x21 + i

# Endings of possessives and plurals after a final phoneme, as in any English grammar; after the rest it is Z.
SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
VOICELESS = frozenset(("P", "T", "K", "F", "TH"))


@dataclass(frozen=True)
class Pronunciation:
    """One way to say a word: phonemes without stress and the natural log of its probability given the word.

    From a model, the probability is among the pronunciations that the beam reached; from a dictionary, all variants
    of a word are equally probable.
    """

    phonemes: Phonemes
    log_prob: float


@dataclass(frozen=True)
class BeamSettings:
    """How wide a word is searched; measured in ``train/pronunciation.py --report``."""

    width: int = 16
    threshold: float = 7.0  # hypotheses this much (natural log) below the best at the same letter are dropped


def possessive_ending(last: str) -> Phonemes:
    """Phonemes that ``'s`` adds after the phoneme ``last``: IH Z (church's), S (cat's) or Z (dog's)."""
    if last in SIBILANTS:
        return ("IH", "Z")
    return ("S",) if last in VOICELESS else ("Z",)


def _pack(magic: bytes, header: Mapping[str, object], payload: bytes) -> bytes:
    head = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return magic + struct.pack("<I", len(head)) + head + zlib.compress(payload, 9)


def _unpack(data: bytes, magic: bytes, what: str) -> tuple[dict[str, object], bytes]:
    """Header and payload of `_pack`; `DataError` when the bytes are not that."""
    try:
        if data[:8] != magic:
            raise ValueError("wrong first bytes")
        (length,) = struct.unpack_from("<I", data, 8)
        header = json.loads(data[12 : 12 + length])
        return dict(header), zlib.decompress(data[12 + length :])
    except (ValueError, TypeError, struct.error, zlib.error, RecursionError) as error:
        raise DataError(f"{what} is damaged or something else ({error}); build it again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


class Dictionary(Mapping[str, tuple[Phonemes, ...]]):
    """Words with one or more pronunciations, the preferred one first.

    Kept as one block of sorted lines and searched by bisection, so that 100,000 words take about 2 MB of memory.
    """

    def __init__(self, entries: Mapping[str, Sequence[Sequence[str]]]) -> None:
        symbols = sorted({symbol for variants in entries.values() for phonemes in variants for symbol in phonemes})
        if len(symbols) > 0x7F - _FIRST_SYMBOL:
            raise DataError(f"a dictionary has at most {0x7F - _FIRST_SYMBOL} different phonemes, not {len(symbols)}")
        code = {symbol: chr(_FIRST_SYMBOL + i) for i, symbol in enumerate(symbols)}
        lines = []
        for word, variants in entries.items():
            if not word or not variants or not all(variants) or any(c <= " " or c.isspace() for c in word):
                raise DataError(f"dictionary word {word!r} needs letters and, for each pronunciation, phonemes")
            spelled = " ".join(dict.fromkeys("".join(code[symbol] for symbol in variant) for variant in variants))
            lines.append(f"{word}\t{spelled}".encode())
        self._set(tuple(symbols), b"\n".join(sorted(lines)))

    def _set(self, symbols: tuple[str, ...], block: bytes) -> None:
        self.symbols = symbols
        self._block = block
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        self._starts = array("I", [0, *(ends + 1).tolist()] if block else [])

    def _line(self, index: int) -> tuple[bytes, bytes]:
        start = self._starts[index]
        end = self._starts[index + 1] - 1 if index + 1 < len(self._starts) else len(self._block)
        word, _, spelled = self._block[start:end].partition(b"\t")
        return word, spelled

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        return (self._line(i)[0].decode() for i in range(len(self)))

    def __getitem__(self, word: str) -> tuple[Phonemes, ...]:
        # Lines are sorted as wholes; the tab sorts before every letter, so words are in order too.
        key = word.encode()
        index = bisect_left(range(len(self)), key, key=lambda i: self._line(i)[0])
        if index < len(self):
            found, spelled = self._line(index)
            if found == key:
                return tuple(tuple(self.symbols[c - _FIRST_SYMBOL] for c in v) for v in spelled.split(b" "))
        raise KeyError(word)

    @classmethod
    def from_text(cls, path: Path) -> Dictionary:
        """Read lines ``word<TAB>P H O N E M E S``; a repeated word is a variant, ``#`` starts a comment line.

        Raises `DataError` with file and line for anything else.
        """
        entries: dict[str, list[Phonemes]] = {}
        try:
            lines = _read(path).decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            word, tab, phonemes = line.partition("\t")
            if not tab or not word.strip() or not phonemes.split():
                raise DataError(f"{path}:{number}: write the word, a tab, and its phonemes with spaces between")
            entries.setdefault(word.strip(), []).append(tuple(phonemes.split()))
        return cls(entries)

    def to_bytes(self) -> bytes:
        """The compact form; equal dictionaries give equal bytes."""
        return _pack(DICTIONARY_MAGIC, {"symbols": self.symbols, "words": len(self)}, self._block)

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "the dictionary") -> Dictionary:
        """Inverse of `to_bytes`; ``what`` names it in errors."""
        header, block = _unpack(data, DICTIONARY_MAGIC, what)
        symbols = header.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise DataError(f"{what} is damaged or something else (no symbols); build it again")
        dictionary = cls({})
        dictionary._set(tuple(symbols), block)
        if len(dictionary) != header.get("words"):
            raise DataError(f"{what} is damaged or something else (words are missing); build it again")
        return dictionary

    @classmethod
    def load(cls, path: Path) -> Dictionary:
        """Read a file of either form: compact, or text as for `from_text`."""
        data = _read(path)
        return cls.from_bytes(data, str(path)) if data[:8] == DICTIONARY_MAGIC else cls.from_text(path)


@dataclass(frozen=True)
class GraphoneModel:
    """A back-off n-gram over graphones as a tree: node 0 is the root, a node's children lie side by side.

    ``graphones``: (letters, phonemes) by id, ids ≥ 2 sorted by letters; ids 0 and 1 are the word's edges.
    ``levels``: for each n-gram length, the number of nodes. The other arrays have one item per node but the root, in
    breadth-first order: ``token`` (uint16, graphone id), ``children`` (uint16, how many; one more item, for the root,
    in front), ``log_prob`` (uint8, -ln p in steps of LOG_STEP), ``backoff`` (uint8, BACKOFF_ZERO - ln b in such steps).
    ``exceptions``: words that letters do not explain (letter names, abbreviations).
    """

    graphones: tuple[tuple[str, Phonemes], ...]
    levels: tuple[int, ...]
    token: npt.NDArray[np.uint16]
    children: npt.NDArray[np.uint16]
    log_prob: npt.NDArray[np.uint8]
    backoff: npt.NDArray[np.uint8]
    exceptions: Mapping[str, Sequence[Phonemes]]

    def to_bytes(self) -> bytes:
        """The file; equal models give equal bytes."""
        header = {
            "graphones": [[letters, " ".join(phonemes)] for letters, phonemes in self.graphones],
            "levels": self.levels,
            "exceptions": {word: [" ".join(p) for p in variants] for word, variants in self.exceptions.items()},
        }
        # Low and high bytes apart, so that the compressor sees like beside like.
        parts = [(a & 255).astype(np.uint8) for a in (self.token, self.children)]
        parts += [(a >> 8).astype(np.uint8) for a in (self.token, self.children)]
        return _pack(MODEL_MAGIC, header, b"".join(a.tobytes() for a in (*parts, self.log_prob, self.backoff)))

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "the pronunciation model") -> GraphoneModel:
        """Inverse of `to_bytes`; raises `DataError` (``what`` names the file) when the bytes are something else."""
        header, payload = _unpack(data, MODEL_MAGIC, what)
        try:
            graphones = tuple((str(g), tuple(str(p).split())) for g, p in header["graphones"])  # type: ignore[attr-defined]
            levels = tuple(int(n) for n in header["levels"])  # type: ignore[attr-defined]
            exceptions = {
                str(word): tuple(tuple(str(p).split()) for p in variants)
                for word, variants in header["exceptions"].items()  # type: ignore[attr-defined]
            }
            n = sum(levels)
            sizes = (n, n + 1, n, n + 1, n, n)
            if len(payload) != sum(sizes):
                raise ValueError("wrong length")
            raw = np.split(np.frombuffer(payload, np.uint8), np.cumsum(sizes)[:-1])
            token, children = ((raw[i] + 256 * raw[i + 2].astype(np.uint16)).astype(np.uint16) for i in (0, 1))
            if int(children.sum()) != n or (n and int(token.max()) >= len(graphones)):
                raise ValueError("its tree does not add up")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{what} is damaged or something else ({error}); build it again") from error
        return cls(graphones, levels, token, children, raw[4], raw[5], exceptions)


class Pronouncer:
    """Pronunciations of any word of the model's alphabet: dictionary, then the model's exceptions, then its n-gram."""

    def __init__(
        self,
        model: GraphoneModel,
        dictionary: Mapping[str, Sequence[Phonemes]] | None = None,
        beam: BeamSettings = BeamSettings(),
    ) -> None:
        self.model = model
        self.dictionary = dictionary or {}
        self.beam = beam
        self.alphabet = frozenset("".join(letters for letters, _ in model.graphones)) | set("".join(model.exceptions))
        self._ranges: dict[str, tuple[int, int]] = {}  # letters -> ids of the graphones that spell them
        for i, (letters, _) in enumerate(model.graphones[2:], 2):
            self._ranges[letters] = (self._ranges.get(letters, (i, i))[0], i + 1)
        self._longest = max((len(letters) for letters in self._ranges), default=1)
        self._build_tree()

    def _build_tree(self) -> None:
        """Arrays for walking: ``first`` child of each node and ``link``, the state to back off to."""
        model, count = self.model, len(self.model.token) + 1
        first = np.ones(count + 1, np.int64)
        np.cumsum(model.children, out=first[1:])
        first[1:] += 1
        token = np.concatenate([[0], model.token]).astype(np.int64)
        parent = np.repeat(np.arange(count), model.children)  # of node i + 1
        parent = np.concatenate([[0], parent])
        suffix = np.zeros(count, np.int64)
        link = np.zeros(count, np.int64)
        has_children = model.children > 0
        key = parent * len(model.graphones) + token
        before, start = 1, 1  # first nodes of the level above and of this one
        for level, size in enumerate(model.levels):
            nodes = np.arange(start, start + size)
            if level:
                # The suffix of (h, t) is the child t of the suffix of h; training keeps every suffix of what it keeps.
                wanted = suffix[parent[nodes]] * len(model.graphones) + token[nodes]
                found = before + np.searchsorted(key[before:start], wanted)
                if np.any(found >= start) or np.any(key[found] != wanted):
                    raise DataError("the pronunciation model is damaged (an n-gram without its suffix); build it again")
                suffix[nodes] = found
            link[nodes] = np.where(has_children[suffix[nodes]], suffix[nodes], link[suffix[nodes]])
            before, start = start, start + size
        self._first = array("i", first.astype(np.int32).tobytes())
        self._link = array("i", link.astype(np.int32).tobytes())
        self._token = array("H", token.astype(np.uint16).tobytes())
        self._log_prob = b"\xff" + model.log_prob.tobytes()
        self._backoff = bytes([BACKOFF_ZERO]) + model.backoff.tobytes()

    @classmethod
    def load(cls, path: Path | str, dictionary: Path | str | None = None) -> Pronouncer:
        """Read a model file and, when given, a dictionary; raises `DataError` when a file is not what it should be."""
        model = GraphoneModel.from_bytes(_read(Path(path)), str(path))
        return cls(model, Dictionary.load(Path(dictionary)) if dictionary is not None else None)

    def pronounce(self, word: str, n_best: int = 1) -> list[Pronunciation]:
        """Up to ``n_best`` pronunciations of a lower-case word, the most probable first.

        Quotes around the word do not count; ``'s`` follows English rules. Raises `DataError` when the word is empty,
        has characters outside the model's alphabet, or cannot be said by the model at all.
        """
        if n_best < 1:
            raise DataError(f"n_best is at least 1, not {n_best}")
        known = self._look_up(word)
        if known is None:
            bare = word.strip("'")
            foreign = sorted(set(bare) - self.alphabet)
            if foreign or not bare:
                reason = f"has {foreign[0]!r}, which is not in its alphabet" if foreign else "has no letters"
                raise DataError(f"cannot pronounce {word!r}: it {reason}; normalise the text or add it to a dictionary")
            known = self._look_up(bare)
            if known is None and bare.endswith("'s") and bare[:-2].strip("'"):
                base = self.pronounce(bare[:-2], n_best)
                return [Pronunciation(p.phonemes + possessive_ending(p.phonemes[-1]), p.log_prob) for p in base]
            if known is None:
                known = self._decode(bare)
        if not known:
            raise DataError(f"cannot pronounce {word!r}: its letters fit no known pattern; add it to a dictionary")
        return known[:n_best]

    def _look_up(self, word: str) -> list[Pronunciation] | None:
        for table in (self.dictionary, self.model.exceptions):
            if word in table:
                variants = table[word]
                return [Pronunciation(tuple(v), -math.log(len(variants))) for v in variants]
        return None

    def _extensions(self, state: int, low: int, high: int, worst: float) -> Iterator[tuple[int, int, float]]:
        """Graphones ``low <= id < high`` after ``state``: (graphone, new state, cost), with cost at most ``worst``.

        Costs are -ln p in steps of LOG_STEP. A longer context that knows the graphone hides the shorter ones.
        """
        first, tokens, costs = self._first, self._token, self._log_prob
        seen: set[int] = set()
        penalty = 0
        while penalty <= worst:
            end = first[state + 1]
            i = bisect_left(tokens, low, first[state], end)
            while i < end and tokens[i] < high:
                token = tokens[i]
                if token not in seen:
                    seen.add(token)
                    cost = penalty + costs[i]
                    if cost <= worst:
                        yield token, (i if first[i] < first[i + 1] else self._link[i]), cost
                i += 1
            if state == 0:
                return
            penalty += self._backoff[state] - BACKOFF_ZERO
            state = self._link[state]

    def _decode(self, word: str) -> list[Pronunciation]:
        """Beam search over the letters; segmentations of one pronunciation that meet in a state are added up."""
        graphones, settings = self.model.graphones, self.beam
        threshold = settings.threshold / LOG_STEP
        start_state = next((s for t, s, _ in self._extensions(0, START, START + 1, math.inf) if t == START), 0)
        beams: list[_Beam] = [{} for _ in range(len(word) + 1)]
        beams[0][start_state, ()] = 0.0
        best = [math.inf] * (len(word) + 1)
        for position in range(len(word)):
            beam = sorted(beams[position].items(), key=lambda item: (item[1], item[0]))[: settings.width]
            spans = [
                (position + n, self._ranges[word[position : position + n]])
                for n in range(1, self._longest + 1)
                if position + n <= len(word) and word[position : position + n] in self._ranges
            ]
            for (state, phonemes), cost in beam:
                if cost > beam[0][1] + threshold:
                    break
                for end, (low, high) in spans:
                    target = beams[end]
                    # An ending two letters on has more to explain, so only the best at the same end counts.
                    worst = best[end] + threshold - cost
                    for token, new_state, step in self._extensions(state, low, high, worst):
                        total = cost + step
                        key = (new_state, phonemes + graphones[token][1])
                        old = target.get(key)
                        target[key] = total if old is None else _add_costs(old, total)
                        best[end] = min(best[end], total)
        totals: dict[Phonemes, float] = {}
        for (state, phonemes), cost in beams[-1].items():
            for _, _, step in self._extensions(state, END, END + 1, math.inf):
                if phonemes:
                    total = cost + step
                    totals[phonemes] = _add_costs(totals[phonemes], total) if phonemes in totals else total
        return _normalise(totals)


def _add_costs(a: float, b: float) -> float:
    """Cost of the sum of two probabilities given as costs (-ln p in steps of LOG_STEP)."""
    low, high = (a, b) if a < b else (b, a)
    return low - math.log1p(math.exp((low - high) * LOG_STEP)) / LOG_STEP


def _normalise(costs: Mapping[Phonemes, float]) -> list[Pronunciation]:
    """Costs to log-probabilities that sum to one, best first, ties in alphabetical order."""
    if not costs:
        return []
    best = min(costs.values())
    total = math.log(sum(math.exp((best - cost) * LOG_STEP) for cost in costs.values()))
    ranked = sorted(costs.items(), key=lambda item: (item[1], item[0]))
    return [Pronunciation(phonemes, (best - cost) * LOG_STEP - total) for phonemes, cost in ranked]


def build_lexicon(words: Iterable[str], pronouncer: Pronouncer, n_best: int = 1) -> Dictionary:
    """A dictionary of ``words``, up to ``n_best`` pronunciations each: it maps phoneme strings back to spelling."""
    return Dictionary({word: [p.phonemes for p in pronouncer.pronounce(word, n_best)] for word in words})
