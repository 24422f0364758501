"""Text normalisers, shared by training labels, language models and scoring: written text to the words that are spoken.

What a `Normaliser` does, in order: Unicode compatibility form, without the diacritics that are no part of a letter of
the language; typographic quotes to plain ones; lower case; replacements, abbreviations and signs spelled out; numbers
to words where the language has rules for them (English: cardinal, ordinal, years, decimals, fractions, money); all but
letters and spaces dropped, hyphens and dashes becoming spaces, apostrophes kept inside words where they are letters;
variants of spelling to one of them. All of it is data in a language file (`edge_stt.language`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from .errors import DataError
from .number_words import MAX_DIGITS, cardinal, ordinal

_COUNT = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"  # "1,234" is one number, "12,13" are two
_AMOUNT = rf"(?:(?:{_COUNT}\s+)?\d+⁄\d+|{_COUNT}(?:\.\d+)?)"
_ORDINAL = re.compile(rf"\b({_COUNT})(?:st|nd|rd|th)\b")
_YEAR = re.compile(r"(?<![\d.⁄])(1[1-9]\d\d|20[1-9]\d)(?![\d⁄]|\.\d|\s+\d+⁄)")
_NUMBER = re.compile(_AMOUNT)
_FRACTION = re.compile(r"[¼-¾⅐-⅞↉]|⅟\d+")  # single characters, which NFKD turns into digits around a "⁄"
_PARTS = {"2": ("half", "halves"), "4": ("quarter", "quarters")}  # the others are ordinals
_SPACES = re.compile(r"\s+")
_SEPARATORS = '-–—_/⁄\\.,;:!?()[]{}"*|~<>…'
NUMBERS = ("", "english")  # whose rules spell digits; "" for none
UNKNOWN = ("drop", "report")


def _fraction(numerator: str, denominator: str, mixed: bool) -> str:
    """``3⁄4`` in words; ``mixed`` after a whole number."""
    glue = "and " if mixed else ""
    if len(denominator) > MAX_DIGITS or int(denominator) < 2:
        return f"{glue}{cardinal(numerator)} over {cardinal(denominator)}"
    one, many = _PARTS.get(denominator, (ordinal(denominator), f"{ordinal(denominator)}s"))
    if numerator == "1":
        return f"{glue}{'a' if mixed and denominator in _PARTS else 'one'} {one}"
    return f"{glue}{cardinal(numerator)} {many}"


def _words(amount: str) -> str:
    """What `_AMOUNT` matches, in words between spaces."""
    *counts, last = amount.replace(",", "").split()
    parts = [cardinal(count) for count in counts]
    if "⁄" in last:
        numerator, _, denominator = last.partition("⁄")
        parts.append(_fraction(numerator, denominator, bool(counts)))
    else:
        whole, _, decimals = last.partition(".")
        parts.append(cardinal(whole))
        if decimals:
            parts += ["point", *map(cardinal, decimals)]
    return f" {' '.join(parts)} "


def _year(match: re.Match[str]) -> str:
    century, rest = divmod(int(match[1]), 100)
    if rest == 0:
        return _words(str(century)) + "hundred "
    return _words(str(century)) + ("oh" if rest < 10 else "") + _words(str(rest))


def _any_of(characters: str, negated: bool = False) -> str:
    """A regular expression's class of characters; of none, one that never matches."""
    if not characters:
        return "(?!)" if not negated else r"[\s\S]"
    return f"[{'^' * negated}{''.join(map(re.escape, characters))}]"


@dataclass(frozen=True)
class Normaliser:
    """The rules of one language; call it with a text.

    ``letters`` are what is left beside single spaces. ``numbers`` is ``english`` or empty: digits are then letters that
    the language has not. ``unknown`` says what becomes of a text with such letters: ``drop`` leaves the letters out,
    ``report`` leaves the text out of training and tests (`problem`). ``replacements`` are of characters,
    ``abbreviations`` in lower case, ``currencies`` (sign to singular and plural) only where numbers are spelled.
    ``variants`` are words and how they are spelled here, in labels and in scoring.

    ``name`` names the rules wherever a figure depends on them; raises `DataError` for rules that cannot be.
    """

    name: str
    letters: str
    numbers: str = ""
    unknown: str = "report"
    replacements: Mapping[str, str] = field(default_factory=dict)
    abbreviations: Mapping[str, str] = field(default_factory=dict)
    signs: Mapping[str, str] = field(default_factory=dict)
    currencies: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or not self.letters:
            raise DataError("a normaliser needs a name and letters")
        if self.numbers not in NUMBERS or self.unknown not in UNKNOWN:
            raise DataError(f"normaliser {self.name}: numbers is 'english' or empty, unknown 'drop' or 'report'")
        for letter in self.letters:
            # A capital, "ſ" and the like would be gone before they could be kept.
            if letter.isspace() or unicodedata.normalize("NFKC", letter) != letter or self._composed(letter) != letter:
                raise DataError(f"normaliser {self.name}: {letter!r} is no letter in lower case and plain form")
        for word, spelling in self.variants.items():
            plain = len(word.split()) == 1 and set(word) | set(spelling) <= {*self.letters, " "}
            if not plain or not spelling.split() or set(spelling.split()) & self.variants.keys():
                raise DataError(
                    f"normaliser {self.name}: the variant {word!r} = {spelling!r} must be a word of its letters, "
                    "and words that have no other spelling"
                )

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Normaliser:
        """Inverse of `to_data`; raises `DataError` for unknown keys and wrong types."""
        known = cls.__dataclass_fields__
        if unknown := sorted(set(data) - set(known)):
            raise DataError(f"normaliser: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        for key, value in data.items():
            texts = [value]
            if known[key].type.startswith("Mapping"):  # annotations are strings in this module
                if not isinstance(value, Mapping):
                    raise DataError(f"normaliser: {key} is a table")
                texts = list(value.values())
                if key == "currencies":
                    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in texts):
                        raise DataError('normaliser: a currency is written "$" = ["dollar", "dollars"]')
                    texts = [text for pair in texts for text in pair]
            if not all(isinstance(text, str) for text in texts):
                raise DataError(f"normaliser: {key} must be text")
        if "name" not in data or "letters" not in data:
            raise DataError("normaliser: needs a name and letters")
        currencies = {sign: (one, many) for sign, (one, many) in data.get("currencies", {}).items()}
        return cls(**{**data, "currencies": currencies})

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "currencies": {sign: list(words) for sign, words in self.currencies.items()}}

    def __call__(self, text: str) -> str:
        """Written text to words: ``"Mr. O’Neil paid £5"`` → ``"mister o'neil paid five pounds"``."""
        text = self._foreign.sub("", _SPACES.sub(" ", self._spelled(text)))
        words = (word.strip("'") for word in text.split())
        return " ".join(self.variants.get(word, word) for word in words if word)

    def unknown_letters(self, text: str) -> str:
        """Letters and digits of ``text`` that are none of the language, each once, in order of appearance."""
        return "".join(dict.fromkeys(c for c in self._spelled(text) if c.isalnum() and c not in self.letters))

    def problem(self, text: str) -> str | None:
        """Why ``text`` is no use: letters that are not the language's, or no words; None when there is nothing."""
        if self.unknown == "report" and (found := self.unknown_letters(text)):
            digits = "; write numbers as words" if any(c.isdigit() for c in found) else ""
            return f"{' '.join(found[:10])}: no letter of {self.name}, in {text[:40]!r}{digits}"
        return None if self(text) else f"no words in the text {text[:40]!r}"

    def _composed(self, text: str) -> str:
        """Lower case, with the diacritics that are part of the language's letters, and no others."""
        text = _FRACTION.sub(lambda m: f" {m[0]} ", text)  # or "2½" would become "21⁄2"
        text = unicodedata.normalize("NFKD", text).replace("’", "'").replace("‘", "'").replace("`", "'").lower()
        for apart, letter in self._letters_apart:
            text = text.replace(apart, letter)
        return "".join(c for c in text if not unicodedata.combining(c) or c in self.letters)

    def _spelled(self, text: str) -> str:
        """All but the last two steps."""
        text = self._composed(text)
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        text = self._abbreviation.sub(lambda m: self.abbreviations[m[0]] + " ", text)
        if self.numbers == "english" and any(c.isdigit() for c in text):
            text = self._spell_numbers(text)
        for sign, word in self.signs.items():
            text = text.replace(sign, f" {word} ")
        return self._separators.sub(" ", text)

    def _spell_numbers(self, text: str) -> str:
        text = self._money_sign.sub(self._money, text)
        text = _ORDINAL.sub(lambda m: f" {ordinal(m[1].replace(',', ''))} ", text)
        text = _YEAR.sub(_year, text)
        return _NUMBER.sub(lambda m: _words(m[0]), text)

    def _money(self, match: re.Match[str]) -> str:
        sign, amount = match.groups()
        one, many = self.currencies[sign]
        single = amount == "1" or ("⁄" in amount and len(amount.split()) == 1)  # "one half pound"
        return _words(amount) + (one if single else many) + " "

    @cached_property
    def _letters_apart(self) -> tuple[tuple[str, str], ...]:
        """Letters that decompose, longest first: ``ä`` as two characters, and as one."""
        apart = [(unicodedata.normalize("NFKD", letter), letter) for letter in self.letters]
        return tuple(sorted(((a, c) for a, c in apart if a != c), key=lambda pair: -len(pair[0])))

    @cached_property
    def _foreign(self) -> re.Pattern[str]:
        return re.compile(_any_of(self.letters + " ", negated=True))

    @cached_property
    def _separators(self) -> re.Pattern[str]:
        return re.compile(_any_of("".join(c for c in _SEPARATORS if c not in self.letters)) + "+")

    @cached_property
    def _abbreviation(self) -> re.Pattern[str]:
        before = _any_of(self.letters.replace("'", ""))
        longest_first = sorted(self.abbreviations, key=len, reverse=True)
        return re.compile(f"(?<!{before})(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    @cached_property
    def _money_sign(self) -> re.Pattern[str]:
        return re.compile(rf"({_any_of(''.join(self.currencies))})\s*({_AMOUNT})")


@lru_cache(maxsize=1)
def english() -> Normaliser:
    """The normaliser ``edge-stt-english-1``."""
    from .language import load_language

    return load_language("english").normaliser


def normalise_text(text: str) -> str:
    """English text to words, ``a``–``z``, ``'`` and single spaces: `english`."""
    return english()(text)
