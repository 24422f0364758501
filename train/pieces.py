"""Word pieces: units longer than a letter, for networks with few output frames a second.

Which pieces is learned from texts by joining, again and again, the two that stand next to one another most often
(R. Sennrich, B. Haddow and A. Birch, "Neural machine translation of rare words with subword units", ACL 2016). Words
are then cut into the longest pieces from left to right (`edge_stt.units.UnitSet.encode`), so that a list of pieces is
all that a language file says of them.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from edge_stt.errors import DataError
from edge_stt.files import write_atomically
from edge_stt.language import Language
from edge_stt.lm_count import read_sentences

WORDS = 30_000  # the most frequent words, from which pieces are learned


def learn_pieces(words: Counter[str], letters: Iterable[str], count: int) -> list[str]:
    """``count`` units: the letters, and pieces of words in the order in which they were joined.

    Fewer where the words have no two neighbours left. Raises `DataError` where ``count`` leaves no piece.
    """
    pieces = list(letters)
    if count <= len(pieces):
        raise DataError(f"{count} units are no more than the {len(pieces)} letters: ask for more pieces")
    cut = {word: list(word) for word, _ in words.most_common(WORDS)}
    while len(pieces) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in cut.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        joined = "".join(best)
        if joined not in pieces:
            pieces.append(joined)
        for word, parts in cut.items():
            if joined in word:
                cut[word] = _join(parts, best)
    return pieces


def _join(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write_language(texts: Sequence[Path], language: Language, extends: str, count: int, out: Path) -> list[str]:
    """Write a language file like ``extends`` whose only units are word pieces; returns them.

    ``extends`` is what the file will name: a language that comes along, or the path of a file.
    """
    if out.exists() and Path(extends).exists() and out.samefile(extends):
        raise DataError(f"{out} is the language that is extended: name another file")
    words: Counter[str] = Counter()
    for text in texts:
        for sentence in read_sentences(text, normaliser=language.normaliser):
            words.update(sentence)
    if not words:
        raise DataError("the texts have no words")
    pieces = learn_pieces(words, language.normaliser.letters, count)
    symbols = textwrap.fill(" ".join(pieces), 110, break_long_words=False, break_on_hyphens=False)
    lines = [
        f"# {len(pieces)} word pieces.",
        f"extends = {_quoted(extends)}",
        "\n[units]",
        *(f"{_quoted(head)} = false" for head in language.units if head != "characters"),
        "\n[units.characters]",
        f"name = {_quoted(f'{language.name}-pieces-{len(pieces)}')}",
        'kind = "characters"',
        'symbols = """\n' + _quoted(symbols)[1:-1].replace("\\n", "\n") + '\n"""\n',
    ]
    write_atomically(out, ["\n".join(lines)])
    return pieces


def _quoted(text: str) -> str:
    """As TOML writes text, which is as JSON does."""
    return json.dumps(text, ensure_ascii=False)
