"""Counting n-grams of texts larger than memory: words to ids on disk, sorted runs, and their merge.

An n-gram is one uint64 key, the word ids packed side by side, oldest highest: sorting keys sorts n-grams by context, a
shift drops the last word, a mask the first. After K. Heafield et al., "Scalable modified Kneser-Ney language model
estimation", ACL 2013.
"""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from .corpora import read_table
from .errors import DataError, UsageError, reason
from .letter_lm import spell
from .lm import SENTENCE_END, SENTENCE_START, Array
from .text import Normaliser, english

UNKNOWN_ID, START_ID, END_ID = range(3)
KEY_BITS = 64
RECORD = np.dtype([("key", np.uint64), ("raw", np.uint64), ("adjusted", np.uint64)])
_TOKENS_A_CHUNK = 1 << 20

Progress = Callable[[str, float], None]
"""What is being done, and how much of it is done (0..1)."""


def read_sentences(
    path: Path, normalise: bool = True, progress: Progress | None = None, normaliser: Normaliser | None = None
) -> Iterator[list[str]]:
    """The sentences of a text as lists of words: one a line, plain or ``.gz``; each text of a ``.jsonl`` manifest or a
    ``.csv`` or ``.tsv`` table (`edge_stt.corpora.read_table`).

    With ``normalise`` through ``normaliser`` (English without one), else split at spaces. Empty lines are left out.
    Raises `DataError`, one line, for what cannot be read.
    """
    number = 0
    normaliser = normaliser or english()
    if path.suffix == ".gz" and {".csv", ".tsv"} & set(path.suffixes):
        raise DataError(f"{path}: tables are not read packed: unpack it first (gunzip)")
    if path.suffix in (".csv", ".tsv"):
        for _, row in read_table(path, ("text",), _refuse):
            if words := (normaliser(row["text"]) if normalise else row["text"]).split():
                yield words
        return
    manifest = ".jsonl" in path.suffixes
    try:
        size = max(1, path.stat().st_size)
        with path.open("rb") as raw:
            lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            for number, line in enumerate(lines, 1):
                text = _text_of(line, f"{path}:{number}") if manifest else line.decode()
                words = (normaliser(text) if normalise else text).split()
                if words:
                    yield words
                if progress and number % 1024 == 0:
                    progress("reading", raw.tell() / size)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 text: convert it first") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def _refuse(problem: str) -> None:
    raise DataError(problem)


def _text_of(line: bytes, source: str) -> str:
    """The text of a manifest's line; raises `DataError`, naming the ``source``."""
    try:
        item = json.loads(line)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: no JSON object with a 'text': {reason(error)}") from error
    text = item.get("text") if isinstance(item, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{source}: no JSON object with a 'text' of letters; one line is one clip of a manifest")
    return text


class _Numbers(dict[str, int]):
    """Word → number in order of first sight."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


@dataclass(frozen=True)
class Corpus:
    """A text as numbers on disk. ``tokens``: uint32 file, 0 after each sentence, else 1 + index into ``words``."""

    tokens: Path
    words: Sequence[str]
    counts: Array
    sentences: int


def store_corpus(
    texts: Sequence[Path],
    folder: Path,
    normalise: bool = True,
    progress: Progress = lambda what, done: None,
    normaliser: Normaliser | None = None,
    letters: bool = False,
) -> Corpus:
    """Read the texts once; memory grows with the number of different words only. ``letters``: these for words."""
    numbers = _Numbers()
    number = numbers.__getitem__
    counts = np.zeros(0, np.int64)
    sentences = 0
    tokens = folder / "tokens"
    with tokens.open("wb") as file:

        def flush(chunk: array[int]) -> None:
            nonlocal counts
            ids = np.frombuffer(chunk, np.uint32) + np.uint32(1)  # the mark wraps to 0
            found = np.bincount(ids, minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
            ids.tofile(file)

        for i, path in enumerate(texts):
            chunk = array("I")

            def report(what: str, done: float, i: int = i) -> None:
                progress(what, (i + done) / len(texts))

            for words in read_sentences(path, normalise, report, normaliser):
                chunk.extend(map(number, spell(words) if letters else words))
                chunk.append(0xFFFFFFFF)
                sentences += 1
                if len(chunk) >= _TOKENS_A_CHUNK:
                    flush(chunk)
                    chunk = array("I")
            if chunk:
                flush(chunk)
    if not numbers:
        raise DataError("the texts have no words")
    for mark in (SENTENCE_START, SENTENCE_END):
        if mark in numbers:
            raise DataError(f"the texts contain {mark}: take it out, sentences are told apart by line ends")
    return Corpus(tokens, list(numbers), counts[1:], sentences)


def window_keys(corpus: Corpus, ids: Array, order: int, bits: int) -> Iterator[Array]:
    """Keys of the ``order``-grams that end at each word and sentence end, in chunks of a million or so.

    ``ids``: uint32 ``[1 + len(corpus.words)]``, token → word id. Before its first word a sentence has ``<s>`` as often
    as needed: n-grams that begin with two of them stand for shorter ones.
    """
    rest = np.zeros(0, np.uint32)
    with corpus.tokens.open("rb") as file:
        while True:
            chunk = np.fromfile(file, np.uint32, _TOKENS_A_CHUNK)
            tokens = np.concatenate([rest, chunk])
            ends = np.flatnonzero(tokens == 0)
            if not len(ends):
                if not len(chunk):
                    return
                rest = tokens
                continue
            tokens, rest = tokens[: ends[-1] + 1], tokens[ends[-1] + 1 :]
            starts = np.concatenate([[0], ends[:-1] + 1])
            place = np.arange(len(tokens)) - np.repeat(starts, np.diff(np.append(starts, len(tokens))))
            words = ids[tokens].astype(np.uint64)
            keys = words.copy()
            for back in range(1, order):
                earlier = np.full(len(words), START_ID, np.uint64)
                earlier[back:] = words[:-back] if back < len(words) else []
                earlier[place < back] = START_ID
                keys |= earlier << np.uint64(bits * back)
            yield keys


def group_starts(keys: Array) -> Array:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]]))


def group_sums(values: Array, starts: Array) -> Array:
    """Sums over runs, along the first axis."""
    return np.asarray(np.add.reduceat(values, starts, axis=0)) if len(starts) else values[:0]


def _combine(records: Array) -> Array:
    """Sorted by key, equal keys added up."""
    records = records[np.argsort(records["key"], kind="stable")]
    starts = group_starts(records["key"])
    combined = records[starts]
    for field in ("raw", "adjusted"):
        combined[field] = group_sums(records[field], starts)
    return combined


class NgramCounter:
    """Adds up counts of n-grams in at most about ``memory`` bytes; what does not fit is spilled to sorted files.

    Two counts a key: how often the n-gram occurs, and its adjusted count (Kneser-Ney's, see `edge_stt.lm_build`).
    """

    def __init__(self, folder: Path, memory: int) -> None:
        self._folder = folder
        self._limit = max(1024, memory // (4 * RECORD.itemsize))  # sorting needs some copies
        self._parts: list[Array] = []
        self._pending = 0
        self._settled = 0  # of the pending records, those that combining did not make fewer
        self._runs: list[Path] = []

    def add(self, keys: Array, raw: Array | int = 1, adjusted: Array | int = 1) -> None:
        """Count keys, uint64 ``[n]`` in any order, each with its counts."""
        for begin in range(0, len(keys), self._limit):
            part = slice(begin, begin + self._limit)
            records = np.empty(len(keys[part]), RECORD)
            records["key"] = keys[part]
            records["raw"] = raw if isinstance(raw, int) else raw[part]
            records["adjusted"] = adjusted if isinstance(adjusted, int) else adjusted[part]
            records = _combine(records)
            self._parts.append(records)
            self._pending += len(records)
            # Combining again pays when the new ones are as many as the old, so that the work stays n log n.
            if self._pending > max(2 * self._settled, self._limit):
                self._settle()

    def _settle(self) -> None:
        combined = _combine(np.concatenate(self._parts)) if self._parts else np.empty(0, RECORD)
        self._parts, self._pending, self._settled = [combined], len(combined), len(combined)
        if len(combined) > self._limit:
            path = self._folder / f"run-{id(self):x}-{len(self._runs)}"
            combined.tofile(path)
            self._runs.append(path)
            self._parts, self._pending, self._settled = [], 0, 0

    def merged(self) -> Iterator[Array]:
        """All records in order of key, each key once, in blocks. May be called again."""
        self._settle()
        if not self._runs:
            for begin in range(0, self._pending, self._limit):
                yield self._parts[0][begin : begin + self._limit]
            return
        block = max(64, self._limit // (len(self._runs) + 1))
        files = [path.open("rb") for path in self._runs]
        try:
            yield from _merge([_blocks(file, block) for file in files] + [iter(self._parts)])
        finally:
            for file in files:
                file.close()


def _blocks(file: IO[bytes], size: int) -> Iterator[Array]:
    while len(block := np.fromfile(file, RECORD, size)):
        yield block


def _merge(sources: list[Iterator[Array]]) -> Iterator[Array]:
    """Merge sorted sources, taking from each what is not beyond the first to run out of its block."""
    heads = [(block, source) for source in sources if (block := next(source, None)) is not None and len(block)]
    while heads:
        bound = min(block["key"][-1] for block, _ in heads)
        ready, remaining = [], []
        for block, source in heads:
            cut = int(np.searchsorted(block["key"], bound, side="right"))
            ready.append(block[:cut])
            rest = block[cut:] if cut < len(block) else next(source, None)
            if rest is not None and len(rest):
                remaining.append((rest, source))
        yield _combine(np.concatenate(ready))
        heads = remaining


def check_key_size(order: int, vocabulary_size: int) -> int:
    """Bits a word takes in a key. Raises `UsageError` where an n-gram does not fit into 64."""
    bits = max(2, (vocabulary_size - 1).bit_length())
    if order * bits > KEY_BITS:
        largest = 1 << (KEY_BITS // order)
        raise UsageError(f"order {order} takes a vocabulary of at most {largest} words; this one has {vocabulary_size}")
    return bits
