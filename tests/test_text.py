"""The normaliser and the unit sets."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.errors import DataError
from edge_stt.number_words import MAX_DIGITS, cardinal, ordinal
from edge_stt.text import normalise_text
from edge_stt.units import ARPABET, BLANK, ENGLISH_CHARACTERS, SEPARATOR, UnitSet


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        (
            "Mr. O’Neil paid £5,000 & 3.5% in 1810;",
            "mister o'neil paid five thousand pounds and three point five percent in eighteen ten",
        ),
        ("the 21st--of May, 1900, café", "the twenty first of may nineteen hundred cafe"),
        ("'Tis a well-known “fact”", "tis a well known fact"),
        ("In 2019, 1905 and 105 birds", "in twenty nineteen nineteen oh five and one hundred five birds"),
        ("Dial 0. $1 or €2.50", "dial zero one dollar or two point five zero euros"),
        ("the boys' Dr. etc.", "the boys doctor et cetera"),
        ("pages 1,2,3 and chapters 12,13", "pages one two three and chapters twelve thirteen"),
        (
            "1,234,567, the 1,000th",
            "one million two hundred thirty four thousand five hundred sixty seven the one thousandth",
        ),
        ("the 1st,2nd, in 1810,1811", "the first second in eighteen ten eighteen eleven"),
        ("$1, £2,3", "one dollar two pounds three"),
        (
            "½ cup, 2½ cups, 1¼, ¾ and 3⅛",
            "one half cup two and a half cups one and a quarter three quarters and three and one eighth",
        ),
        (
            "£½ or £2½; 3⁄20, ⅟8, ½½",
            "one half pound or two and a half pounds three twentieths one eighth one half one half",
        ),
        ("…—!", ""),
        ("", ""),
    ],
)
def test_written_to_spoken(written: str, spoken: str) -> None:
    assert normalise_text(written) == spoken


@pytest.mark.parametrize("text", ["{}", "{}.5", "${}", "{}th", "1⁄{}", "{}½", "{}," + "{}"])
@pytest.mark.parametrize("length", [16, 40, 500])
def test_numbers_too_long_to_say_are_said_digit_by_digit(text: str, length: int) -> None:
    spoken = normalise_text(text.replace("{}", "7" * length)).split()
    assert spoken.count("seven") in (length, length - 1, 2 * length)  # the last may be "seventh"
    assert "trillion" in normalise_text("7" * 15)


def test_numbers_are_those_of_inflect() -> None:
    engine = pytest.importorskip("inflect", reason="a second opinion, of the dev extra").engine()

    def words(said: str) -> str:
        return " ".join(re.split(r"[,\s-]+", said))

    drawn = random.Random(1)
    numbers = [*range(1_200), *(drawn.randrange(10 ** drawn.randint(4, MAX_DIGITS)) for _ in range(500))]
    for digits in [*map(str, numbers), "00", "007", "000000000001000", "٣"]:
        assert cardinal(digits) == words(engine.number_to_words(digits, andword=""))
        assert ordinal(digits) == words(engine.number_to_words(engine.ordinal(digits), andword=""))


@settings(deadline=None)  # a busy machine is not an error
@given(st.text(alphabet="0123456789,. \u20441½¾⅟$thsnd٣x"))
def test_no_number_is_too_odd(text: str) -> None:
    out = normalise_text(text)
    assert set(out) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert normalise_text(out) == out


@given(st.text(alphabet=st.characters(exclude_categories=["Nd", "No", "Nl"])))
def test_gives_only_words_of_the_alphabet(text: str) -> None:
    out = normalise_text(text)
    assert set(out) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert out == " ".join(out.split())
    assert normalise_text(out) == out


@given(st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz'", min_size=1), min_size=1))
def test_characters_there_and_back(words: list[str]) -> None:
    assert ENGLISH_CHARACTERS.decode(ENGLISH_CHARACTERS.encode(words)) == " ".join(words)


def test_phonemes_there_and_back() -> None:
    units = ARPABET.encode([("HH", "AH", "L", "OW"), ("W", "ER", "L", "D")])
    assert units[4] == SEPARATOR
    assert ARPABET.decode(units) == "HH AH L OW | W ER L D"


def test_a_symbol_outside_the_set_is_named() -> None:
    with pytest.raises(DataError, match="'é'"):
        ENGLISH_CHARACTERS.encode(["café"])


def test_another_language_is_data() -> None:
    french = UnitSet("french", "characters", ("<blank>", " ", *"abcdefghijklmnopqrstuvwxyzàâçéèêëîïôûùœ'"))
    assert french.decode(french.encode(["ça", "été"])) == "ça été"
    assert french.symbols[BLANK] == "<blank>"


@pytest.mark.parametrize(
    ("kind", "symbols"), [("words", "abc"), ("characters", "ab"), ("characters", "abca"), ("phonemes", "")]
)
def test_units_that_cannot_be_are_refused(kind: str, symbols: str) -> None:
    with pytest.raises(DataError, match="unit set x"):
        UnitSet("x", kind, tuple(symbols))
