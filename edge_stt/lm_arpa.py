"""ARPA files: the text form of n-gram language models, read and written.

The form is that of SRILM's ngram-format(5) (http://www.speech.sri.com/projects/srilm/manpages/ngram-format.5.html)
with the habits of its writers: anything before ``\\data\\``, spaces or tabs between fields, no back-off weight where
there is none, ``<UNK>`` for ``<unk>``, ``-inf`` for a probability of zero, Windows line ends, gzip.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from .errors import DecodingError
from .lm import MAX_ORDER, UNKNOWN, LanguageModel, NgramError, Ngrams
from .lm_file import replacing

LN10 = math.log(10.0)
ZERO = -99.0  # what writers put for the logarithm of zero
NO_UNKNOWN = -100.0  # KenLM's log10 probability of an unknown word where the model has none
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)$")
_SECTION = re.compile(rb"\\(\d+)-grams:$")
_GZIP = b"\x1f\x8b"
_KENLM_BINARY = b"mmap lm http://kheafield.com/code"


class _Reader:
    """The lines of a file, stripped, with their numbers for errors."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.number = path, 0
        self._lines = iter(file)

    def __iter__(self) -> Iterator[bytes]:
        try:
            for line in self._lines:
                self.number += 1
                yield line.strip()
        except (EOFError, OSError, zlib.error) as error:
            raise DecodingError(f"{self.path} is cut short or damaged after line {self.number}: {error}") from error

    def fail(self, reason: str, number: int | None = None) -> NoReturn:
        raise DecodingError(f"{self.path}:{number or self.number}: {reason}")


def read(path: Path) -> LanguageModel:
    """Read a plain or gzip-compressed ARPA file of any order.

    Without ``<unk>``, unknown words get a log10 probability of -100, as in KenLM.
    Raises `DecodingError`, one line with file and line number, for whatever is wrong with it.
    """
    with path.open("rb") as raw:
        start = raw.read(len(_KENLM_BINARY))
        if start == _KENLM_BINARY:
            raise DecodingError(f"{path} is a KenLM binary: give the ARPA file that it was made from")
        raw.seek(0)
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if start.startswith(_GZIP) else raw  # type: ignore[assignment]
        return _read(_Reader(path, file))


def _read(reader: _Reader) -> LanguageModel:
    lines = iter(reader)
    counts = _read_counts(reader, lines)
    words: dict[bytes, int] = {}
    orders: list[Ngrams] = []
    first_lines: list[int] = []
    header: bytes | None = next((line for line in lines if line), None)
    for order, count in enumerate(counts, 1):
        match = _SECTION.match(header or b"")
        if not match or int(match[1]) != order:
            reader.fail(f"expected \\{order}-grams:, found {_shown(header)}")
        first_lines.append(reader.number + 1)
        ngrams, header = _read_section(reader, lines, order, words)
        if len(ngrams.words) != count:
            reader.fail(f"the header says {count} {order}-grams, the section has {len(ngrams.words)}")
        orders.append(ngrams)
    if header != b"\\end\\":
        reader.fail(f"expected \\end\\, found {_shown(header)}; the file may be cut short")
    while len(orders) > 1 and not len(orders[-1].words):
        orders.pop()
    vocabulary = [word.decode() for word in words]
    if UNKNOWN not in vocabulary:
        vocabulary.append(UNKNOWN)
        one = np.array([len(words)], np.uint32)
        log_prob = np.array([NO_UNKNOWN * LN10], np.float32)
        orders[0] = Ngrams(
            np.concatenate([orders[0].words, one[:, None]]),
            np.append(orders[0].log_probs, log_prob),
            np.append(orders[0].backoffs, np.float32(0)),
        )
    try:
        return LanguageModel.from_ngrams(vocabulary, orders, str(reader.path))
    except NgramError as error:
        shown = " ".join(vocabulary[i] for i in orders[error.order - 1].words[error.row])
        reader.fail(f"the {error.order}-gram {shown!r} {error.reason}", first_lines[error.order - 1] + error.row)


def _read_counts(reader: _Reader, lines: Iterator[bytes]) -> list[int]:
    for line in lines:
        if line == b"\\data\\":
            break
        if _SECTION.match(line):
            reader.fail("an n-gram section before \\data\\: this is no whole ARPA file")
    else:
        raise DecodingError(f"{reader.path} is no language model: neither our binary form nor ARPA (no \\data\\)")
    counts: list[int] = []
    for line in lines:
        if not line:
            if counts:
                break
            continue
        match = _COUNT.match(line)
        if not match or int(match[1]) != len(counts) + 1:
            reader.fail(f"expected 'ngram {len(counts) + 1}=COUNT', found {_shown(line)}")
        counts.append(int(match[2]))
    if not counts or counts[0] == 0:
        reader.fail("\\data\\ announces no words")
    if len(counts) > MAX_ORDER:
        reader.fail(f"order {len(counts)} is beyond the {MAX_ORDER} this reader takes")
    return counts


def _read_section(
    reader: _Reader, lines: Iterator[bytes], order: int, words: dict[bytes, int]
) -> tuple[Ngrams, bytes | None]:
    """The n-grams of one section, and the next line that is not empty after it."""
    ids, log_probs, backoffs = array("I"), array("f"), array("f")
    for line in lines:
        if not line:
            break
        fields = line.replace(b"<UNK>", b"<unk>").split()
        if fields[0].startswith(b"\\"):
            return _section(order, ids, log_probs, backoffs), line
        if not order + 1 <= len(fields) <= order + 2:
            reader.fail(f"expected log probability, {order} words, perhaps a back-off weight; found {_shown(line)}")
        log_probs.append(_number(reader, fields[0], "log probability", 0.0) * LN10)
        # A back-off weight may be positive: it is a ratio, not a probability.
        backoffs.append(_number(reader, fields[-1], "back-off weight", 99.0) * LN10 if len(fields) > order + 1 else 0.0)
        if order == 1:
            _add_word(reader, words, fields[1])
            ids.append(len(ids))
        else:
            try:
                ids.extend([words[word] for word in fields[1 : order + 1]])
            except KeyError as error:
                reader.fail(f"the word {_shown(error.args[0])} is not among the 1-grams")
    return _section(order, ids, log_probs, backoffs), next((line for line in lines if line), None)


def _section(order: int, ids: array[int], log_probs: array[float], backoffs: array[float]) -> Ngrams:
    words = np.frombuffer(ids, np.uint32) if len(ids) else np.zeros(0, np.uint32)
    return Ngrams(words.reshape(-1, order), np.array(log_probs, np.float32), np.array(backoffs, np.float32))


def _add_word(reader: _Reader, words: dict[bytes, int], word: bytes) -> None:
    try:
        word.decode()
    except UnicodeDecodeError:
        reader.fail(f"the word {_shown(word)} is not UTF-8: convert the file")
    if word in words:
        reader.fail(f"the 1-gram {_shown(word)} is there twice")
    words[word] = len(words)


def _number(reader: _Reader, field: bytes, what: str, highest: float) -> float:
    try:
        value = float(field)
    except ValueError:
        reader.fail(f"the {what} {_shown(field)} is not a number")
    if not value <= highest:
        reader.fail(f"a {what} cannot be {_shown(field)}")
    return value if value > -1e6 else ZERO


def _shown(text: bytes | None) -> str:
    """A field or line as an error shows it: one line, not too long."""
    if text is None:
        return "the end of the file"
    shown = text.decode("utf-8", "replace")
    return repr(shown if len(shown) <= 60 else shown[:57] + "…")


def write(model: LanguageModel, path: Path) -> None:
    """Write an ARPA file, compressed if the name ends in ``.gz``, atomically."""
    with replacing(path) as raw, _text(raw, path.suffix == ".gz") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(model.counts, 1)))
        for order in range(1, model.order + 1):
            file.write(f"\n\\{order}-grams:\n")
            ngrams = model.ngrams(order)
            log_probs = (ngrams.log_probs.astype(np.float64) / LN10).tolist()
            backoffs = (ngrams.backoffs.astype(np.float64) / LN10).tolist()
            for ids, log_prob, backoff in zip(ngrams.words.tolist(), log_probs, backoffs, strict=True):
                words = " ".join([model.vocabulary[i] for i in ids])
                file.write(f"{log_prob:.7g}\t{words}\t{backoff:.7g}\n" if backoff else f"{log_prob:.7g}\t{words}\n")
        file.write("\n\\end\\\n")


def _text(raw: IO[bytes], packed: bool) -> io.TextIOWrapper:
    """UTF-8 text over a binary file; gzip without name and time, so that equal models give equal files."""
    stream = gzip.GzipFile("", "wb", 6, raw, 0) if packed else raw
    return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
