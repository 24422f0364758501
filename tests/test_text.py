"""The normaliser and the unit sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_stt.errors import DataError
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
        ("…—!", ""),
        ("", ""),
    ],
)
def test_written_to_spoken(written: str, spoken: str) -> None:
    pytest.importorskip("inflect", reason="digits need the bench or train extra")
    assert normalise_text(written) == spoken


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


def test_another_language_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "french.json"
    symbols = ["<blank>", " ", *"abcdefghijklmnopqrstuvwxyzàâçéèêëîïôûùœ'"]
    path.write_text(json.dumps({"name": "french", "kind": "characters", "symbols": symbols}), encoding="utf-8")
    french = UnitSet.from_json(path)
    assert french.decode(french.encode(["ça", "été"])) == "ça été"
    assert french.symbols[BLANK] == "<blank>"


@pytest.mark.parametrize("content", ["", "{}", '{"name": "x", "kind": "words", "symbols": ["a", "b", "c"]}', "[1]"])
def test_a_broken_unit_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "units.json").write_text(content)
    with pytest.raises(DataError):
        UnitSet.from_json(tmp_path / "units.json")
