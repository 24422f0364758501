"""The compact file of a language model: mapped into memory, quantised, hash-checked.

Little-endian: the 12 bytes of `MAGIC`, uint32 format version, SHA-256 of all that follows, uint64 size of the header,
the header (JSON: ``order`` and ``sections``, each ``[name, numpy type, offset, count]``), then the sections:
``vocabulary`` (UTF-8, a newline between words) and for each order, named ``1.…``, ``2.…``:

- ``words`` (orders above 1): last word of each n-gram, 2 bytes while the vocabulary allows, else 4
- ``log_probs``, ``backoffs``: the natural logarithms, float32; in orders above 1 a codebook of at most 256 of them,
  into which ``log_prob_codes``, ``backoff_codes`` point. The highest order has no back-offs.
- ``children``: how many n-grams of the next order extend this one; one byte, where 255 stands for the next number of
  ``many_children`` (uint32). Most n-grams have few, so a count takes a quarter of a pointer.

Quantisation after M. Federico & N. Bertoldi, "How many bits are needed to store probabilities for phrase-based
translation?", WMT 2006, with bins of their own for rare extreme values, so that the error is bounded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import files
from .errors import DecodingError, reason
from .lm import MAX_ORDER, Array, LanguageModel, Level, first_children

MAGIC = b"edge-stt-lm\n"
FORMAT_VERSION = 1
CODEBOOK_SIZE = 256
MANY = 255
_PREAMBLE = struct.Struct("<12sI32sQ")
_HASHED_FROM = 12 + 4 + 32
_TYPES = {"u1", "<u2", "<u4", "<f4"}
_ALIGNMENT = 8


def make_codebook(values: Array, size: int = CODEBOOK_SIZE) -> Array:
    """At most ``size`` float32 values, sorted, to stand for ``values``: all of them if they are so few.

    Half the bins hold equally many values, half are equally wide; each is represented by its mean, and zero by itself.
    No value is farther from its code than ``2 / (size - 2)`` of the range of the values.
    """
    distinct = np.unique(values.astype(np.float32))
    if len(distinct) <= size:
        return distinct
    half = (size - 1) // 2
    ordered = np.sort(values.astype(np.float64))
    by_rank = ordered[np.linspace(0, len(ordered) - 1, half + 1).astype(np.int64)[1:-1]]
    by_width = np.linspace(ordered[0], ordered[-1], half + 1)[1:-1]
    edges = np.unique(np.concatenate(([ordered[0]], by_rank, by_width)))
    starts = np.unique(np.searchsorted(ordered, edges))
    means = np.add.reduceat(ordered, starts) / np.diff(np.append(starts, len(ordered)))
    return np.unique(np.append(means, [0.0] if (distinct == 0).any() else []).astype(np.float32))


def nearest_codes(values: Array, codebook: Array) -> Array:
    """Index of the nearest entry of the sorted codebook for each value, uint8."""
    middles = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def quantise(values: Array) -> tuple[Array, Array]:
    """A codebook for ``values``, float32, of which every entry is used, and the index of each value's entry, uint8.

    What was quantised before stays as it is.
    """
    book = make_codebook(values)
    used, codes = np.unique(nearest_codes(values, book), return_inverse=True)
    return book[used], codes.astype(np.uint8)


def write(model: LanguageModel, path: Path) -> None:
    """Write the model, atomically. Values of orders above 1 are quantised unless they have few distinct values."""
    sections: dict[str, Array] = {"vocabulary": np.frombuffer("\n".join(model.vocabulary).encode(), np.uint8)}
    word_type = np.uint16 if len(model.vocabulary) <= 1 << 16 else np.uint32
    for order, level in enumerate(model.levels, 1):
        highest = order == model.order
        ngrams = model.ngrams(order)
        if order == 1:
            sections["1.log_probs"] = ngrams.log_probs
            sections["1.backoffs"] = ngrams.backoffs
        else:
            sections[f"{order}.words"] = ngrams.words[:, -1].astype(word_type)
            for name, values in (("log_prob", ngrams.log_probs), ("backoff", ngrams.backoffs))[: 1 if highest else 2]:
                sections[f"{order}.{name}s"], sections[f"{order}.{name}_codes"] = quantise(values)
        if not highest:
            children = np.diff(np.asarray(level.first_child).astype(np.int64))
            sections[f"{order}.children"] = np.minimum(children, MANY).astype(np.uint8)
            sections[f"{order}.many_children"] = children[children >= MANY].astype(np.uint32)
    _write_sections(path, model.order, sections)


def _write_sections(path: Path, order: int, sections: Mapping[str, Array]) -> None:
    table: list[list[Any]] = []
    offset = 0
    for name, values in sections.items():
        table.append([name, values.dtype.newbyteorder("<").str.replace("|", ""), offset, len(values)])
        offset += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"order": order, "sections": table}, separators=(",", ":")).encode()
    header += b" " * (-(_PREAMBLE.size + len(header)) % _ALIGNMENT)
    body = bytearray(struct.pack("<Q", len(header)) + header)
    for values in sections.values():
        data = values.astype(values.dtype.newbyteorder("<")).tobytes()
        body += data + bytes(-len(data) % _ALIGNMENT)
    with replacing(path) as file:
        file.write(struct.pack("<12sI32s", MAGIC, FORMAT_VERSION, hashlib.sha256(body).digest()))
        file.write(body)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """`edge_stt.files.replacing`, which raises `DecodingError` where the folder does not take the file."""
    try:
        with files.replacing(path) as file:
            yield file
    except OSError as error:
        raise DecodingError(f"{path} cannot be written: {error.strerror or error}") from error


def read(path: Path, verify: bool = True) -> LanguageModel:
    """Map a file into memory. ``verify`` checks the SHA-256, which reads all of it (a few milliseconds a megabyte on a
    slow core); leave it out where the file was just verified by other means.

    Raises `DecodingError` for a file that is damaged, cut short, foreign or of a newer format.
    """
    if sys.byteorder != "little":
        raise DecodingError("the compact language model needs a little-endian machine; use the ARPA file")
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise DecodingError(f"{path} cannot be read as a language model: {reason(error)}") from error
    if len(data) < _PREAMBLE.size:
        raise DecodingError(f"{path} is cut short: it is no whole language model")
    magic, version, digest, header_size = _PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise DecodingError(f"{path} is not a language model of edge-stt")
    if version != FORMAT_VERSION:
        raise DecodingError(f"{path} has format {version}, this version of edge-stt reads {FORMAT_VERSION}: update it")
    if verify and hashlib.sha256(data[_HASHED_FROM:]).digest() != digest:
        raise DecodingError(f"{path} is damaged (its SHA-256 does not match): copy or build it again")
    try:
        header = json.loads(bytes(data[_PREAMBLE.size : _PREAMBLE.size + header_size]))
        sections = _map_sections(data, _PREAMBLE.size + header_size, header["sections"])
        order = header["order"]
        if not (isinstance(order, int) and 1 <= order <= MAX_ORDER):
            raise ValueError(f"order {order}")
        vocabulary = sections["vocabulary"].tobytes().decode().split("\n")
        levels = [_level(sections, i, order, len(vocabulary)) for i in range(1, order + 1)]
        for above, below in itertools.pairwise(levels):
            if above.first_child[-1] != len(below.words):
                raise ValueError("children do not add up")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DecodingError(f"{path} is damaged ({error}): copy or build it again") from error
    return LanguageModel(vocabulary, levels, str(path))


def _map_sections(data: memoryview, start: int, table: list[tuple[str, str, int, int]]) -> dict[str, Array]:
    sections = {}
    for name, kind, offset, count in table:
        if kind not in _TYPES or offset < 0 or count < 0:
            raise ValueError(f"section {name}")
        sections[name] = np.frombuffer(data, np.dtype(kind), count, start + offset) if count else np.zeros(0, kind)
    return sections


def _level(sections: Mapping[str, Array], order: int, highest: int, vocabulary_size: int) -> Level:
    """One order of the trie from the file's sections; raises ValueError where they do not fit each other."""

    def codes_and_book(name: str, count: int) -> tuple[Any, Any]:
        book, codes = sections[f"{order}.{name}s"], sections[f"{order}.{name}_codes"]
        if len(codes) != count or (count and codes.max() >= len(book)):
            raise ValueError(f"{order}.{name}_codes")
        return codes.data, book.tolist()

    words: Any
    backoff_codes: Any
    backoffs: Any
    if order == 1:
        words = log_prob_codes = backoff_codes = range(vocabulary_size)
        log_probs, backoffs = sections["1.log_probs"].data, sections["1.backoffs"].data
        if not len(log_probs) == len(backoffs) == vocabulary_size:
            raise ValueError("1.log_probs")
    else:
        array = sections[f"{order}.words"]
        if len(array) and array.max() >= vocabulary_size:
            raise ValueError(f"{order}.words")
        words = array.data
        log_prob_codes, log_probs = codes_and_book("log_prob", len(words))
        backoff_codes, backoffs = (range(0), ()) if order == highest else codes_and_book("backoff", len(words))
    if order == highest:
        return Level(words, log_prob_codes, log_probs, backoff_codes, backoffs, ())
    children = sections[f"{order}.children"].astype(np.uint32)
    if len(children) != len(words):
        raise ValueError(f"{order}.children")
    children[children == MANY] = sections[f"{order}.many_children"]
    return Level(words, log_prob_codes, log_probs, backoff_codes, backoffs, first_children(children))
