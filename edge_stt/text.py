"""The text normaliser ``edge-stt-english-1``, shared by training labels, language models and scoring.

What it does, in order: Unicode compatibility form without diacritics; typographic quotes to plain ones; abbreviations
(``ABBREVIATIONS``) and signs (``SIGNS``) spelled out; numbers to words (cardinal, ordinal, years, decimals, money);
lower case; everything but letters, apostrophes inside words and spaces dropped, hyphens and dashes becoming spaces.
The result holds only ``a``–``z``, ``'`` and single spaces.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from .errors import RuntimeMissingError

NORMALISER = "edge-stt-english-1"

ABBREVIATIONS = {
    "mr.": "mister",
    "mrs.": "missus",
    "ms.": "miss",
    "dr.": "doctor",
    "st.": "saint",
    "messrs.": "messieurs",
    "etc.": "et cetera",
    "prof.": "professor",
    "capt.": "captain",
    "col.": "colonel",
    "gen.": "general",
    "rev.": "reverend",
    "hon.": "honorable",
    "jr.": "junior",
    "vs.": "versus",
    "vol.": "volume",
}
SIGNS = {"&": " and ", "%": " percent ", "+": " plus ", "@": " at ", "=": " equals ", "°": " degrees ", "#": " number "}
CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")}

_ABBREVIATION = re.compile(r"(?<![a-z])(?:" + "|".join(re.escape(a) for a in ABBREVIATIONS) + ")")
_MONEY = re.compile(r"([$£€])\s?(\d[\d,]*(?:\.\d+)?)")
_ORDINAL = re.compile(r"\b(\d[\d,]*)(?:st|nd|rd|th)\b")
_YEAR = re.compile(r"(?<![\d,.])(1[1-9]\d\d|20[1-9]\d)(?!\d|[,.]\d)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SEPARATORS = re.compile(r"[-–—_/\\.,;:!?()\[\]{}\"*|~<>…]+")


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        import inflect
    except ImportError as error:
        raise RuntimeMissingError(
            "digits in the text need the package 'inflect': pip install 'edge-stt[bench]', or write numbers as words"
        ) from error
    return inflect.engine()


def _words(number: str) -> str:
    return " " + str(_engine().number_to_words(number.replace(",", ""), andword="", decimal="point")) + " "


def _year(match: re.Match[str]) -> str:
    century, rest = divmod(int(match[1]), 100)
    if rest == 0:
        return _words(str(century)) + "hundred "
    return _words(str(century)) + ("oh" if rest < 10 else "") + _words(str(rest))


def _money(match: re.Match[str]) -> str:
    one, many = CURRENCIES[match[1]]
    return _words(match[2]) + (one if match[2] == "1" else many) + " "


def _spell_numbers(text: str) -> str:
    text = _MONEY.sub(_money, text)
    text = _ORDINAL.sub(
        lambda m: " " + str(_engine().number_to_words(_engine().ordinal(m[1].replace(",", "")), andword="")) + " ", text
    )
    text = _YEAR.sub(_year, text)
    return _NUMBER.sub(lambda m: _words(m[0]), text)


def normalise_text(text: str) -> str:
    """Written text to the words that are spoken: ``"Mr. O’Neil paid £5"`` → ``"mister o'neil paid five pounds"``.

    Raises `RuntimeMissingError` when the text has digits and the package that spells them is not installed.
    """
    text = unicodedata.normalize("NFKD", text).replace("’", "'").replace("‘", "'").replace("`", "'").lower()
    text = "".join(c for c in text if not unicodedata.combining(c)).replace("æ", "ae").replace("œ", "oe")
    text = _ABBREVIATION.sub(lambda m: ABBREVIATIONS[m[0]] + " ", text)
    if any(c.isdigit() for c in text):
        text = _spell_numbers(text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    text = _SEPARATORS.sub(" ", text)
    text = re.sub(r"[^a-z' ]", "", re.sub(r"\s+", " ", text))
    words = (word.strip("'") if word != "'" else "" for word in text.split())
    return " ".join(word for word in words if word)
