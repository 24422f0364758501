"""Unit sets: what the outputs of a model stand for. Index 0 is always the CTC blank, index 1 the word separator.

A unit set is data, so that a second language is a file and not a code change: `edge_stt.language` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import DataError

BLANK = 0
SEPARATOR = 1


@dataclass(frozen=True)
class UnitSet:
    """The symbols of one CTC head, in output order.

    ``kind`` is ``"characters"`` (units joined are the text; they may be pieces of words, longer than a letter) or
    ``"phonemes"`` (a lexicon turns them into words).
    """

    name: str
    kind: str
    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("characters", "phonemes"):
            raise DataError(f"unit set {self.name}: kind is 'characters' or 'phonemes', not {self.kind!r}")
        if len(set(self.symbols)) != len(self.symbols) or len(self.symbols) < 3:
            raise DataError(f"unit set {self.name}: symbols must be distinct: blank, word separator, and units")

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> UnitSet:
        """What `dataclasses.asdict` gives, as files hold it; `KeyError` and `TypeError` where it is something else."""
        return cls(data["name"], data["kind"], tuple(data["symbols"]))

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def index(self) -> dict[str, int]:
        """Symbol to output index."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @cached_property
    def longest(self) -> int:
        """Letters of the longest unit of characters."""
        return max(map(len, self.symbols[2:])) if self.kind == "characters" else 1

    def spell(self, word: str) -> Sequence[str]:
        """A word as units of characters, from left to right always the longest that there is.

        Letters that are in no unit stay as they are.
        """
        if self.longest == 1:
            return word
        out: list[str] = []
        start = 0
        while start < len(word):
            ends = range(min(len(word), start + self.longest), start + 1, -1)
            end = next((end for end in ends if word[start:end] in self.index), start + 1)
            out.append(word[start:end])
            start = end
        return out

    def encode(self, words: Iterable[Sequence[str]]) -> list[int]:
        """Words, each text or a sequence of symbols, to indices with one separator between words.

        Raises `DataError` naming the first symbol that is not in the set.
        """
        out: list[int] = []
        for word in words:
            if out:
                out.append(SEPARATOR)
            for symbol in self.spell(word) if isinstance(word, str) else word:
                if symbol not in self.index:
                    raise DataError(f"{symbol!r} is not in the unit set {self.name!r}")
                out.append(self.index[symbol])
        return out

    def decode(self, indices: Iterable[int]) -> str:
        """Indices (blanks already removed) to text: characters joined, phonemes with a space between."""
        glue = "" if self.kind == "characters" else " "
        words = " ".join(self.symbols[i] if i != SEPARATOR else "\0" for i in indices).split("\0")
        return (" " if self.kind == "characters" else " | ").join(
            filter(None, (glue.join(word.split()) for word in words))
        )


# Those of ``languages/english.toml``, read on first use.
ENGLISH_CHARACTERS: UnitSet
ARPABET: UnitSet
_ENGLISH = {"ENGLISH_CHARACTERS": "characters", "ARPABET": "phonemes"}


def __getattr__(name: str) -> UnitSet:
    if name not in _ENGLISH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .language import load_language

    return load_language("english").units[_ENGLISH[name]]
