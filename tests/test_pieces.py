"""Pieces of words: learned from texts, written as a language file, and how words are cut into them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_stt.acceptor import Speller
from edge_stt.beam import BeamDecoder
from edge_stt.errors import DataError
from edge_stt.hotwords import HotWords
from edge_stt.language import _load, load_language
from edge_stt.letter_lm import LetterModel
from edge_stt.lexicon import Lexicon
from edge_stt.lm_build import BuildConfig, build
from edge_stt.units import UnitSet

from .posteriors import clear_log_probs

UNITS = UnitSet("pieces", "characters", ("<blank>", " ", *"abcdehinrstw", "th", "the", "in", "er"))


def test_words_are_cut_into_the_longest_pieces_from_the_left() -> None:
    assert UNITS.spell("there") == ["the", "r", "e"]
    assert UNITS.spell("winter") == ["w", "in", "t", "er"]
    assert UNITS.decode(UNITS.encode(["the", "winter", "a"])) == "the winter a"
    with pytest.raises(DataError, match="'z' is not in the unit set"):
        UNITS.encode(["thez"])


@pytest.mark.workstation
def test_what_stands_together_most_often_is_joined_first() -> None:
    from train.pieces import learn_pieces

    words = Counter({"banana": 5, "ban": 4, "nab": 1})
    # an: 2 × 5 + 4 = 14; then b + an: 9, an + a: 5 and an + an: 5 …
    assert learn_pieces(words, "abn", 5) == ["a", "b", "n", "an", "ban"]
    with pytest.raises(DataError, match="no more than the 3 letters"):
        learn_pieces(words, "abn", 3)


@pytest.mark.workstation
def test_a_language_of_pieces_is_like_the_other_but_for_its_units(tmp_path: Path) -> None:
    from train.cli import app

    text, out = tmp_path / "text.txt", tmp_path / "pieces.toml"
    text.write_text("The weather is there, then and 3 times there.\nThat is that.\n" * 3)
    done = CliRunner().invoke(app, ["pieces", str(text), "-o", str(out), "--count", "34"])
    assert done.exit_code == 0, done.output
    language, english = load_language(str(out)), load_language("english")
    assert set(language.units) == {"characters"}
    assert language.normaliser.to_data() == english.normaliser.to_data()
    units = language.units["characters"]
    assert len(units) == 2 + 34
    assert "th" in units.symbols
    said = ["three", "weathers", "that"]
    assert len(units.encode(said)) < len(english.units["characters"].encode(said))
    assert units.decode(units.encode(said)) == "three weathers that"
    again = CliRunner().invoke(app, ["pieces", str(text), "-o", str(out), "--count", "5"])
    assert isinstance(again.exception, DataError)
    assert load_language(str(out)).units["characters"] == units


@pytest.mark.workstation
def test_any_language_can_be_extended_and_is_not_written_over(tmp_path: Path) -> None:
    """One with accents, which go with its phonemes; files whose paths need escapes, or have no ending."""
    from train.cli import app

    text, out = tmp_path / "text.txt", tmp_path / "pieces.toml"
    text.write_text("das licht und das bad und die tür\n" * 3)
    files = {
        "": "german-phonemes",
        'a "b" \\c.toml': 'extends = "german"\nname = "x \\"y\\""\n',
        "mine": 'extends = "german"\n',
    }
    for name, content in files.items():
        if name:
            (tmp_path / name).write_text(content)
        language = str(tmp_path / name) if name else content
        done = CliRunner().invoke(app, ["pieces", str(text), "-o", str(out), "--count", "40", "--language", language])
        assert done.exit_code == 0, done.exception
        _load.cache_clear()
        found = load_language(str(out))
        assert set(found.units) == {"characters"}
        assert found.accents == ()
        assert found.normaliser.to_data() == load_language("german").normaliser.to_data()
        assert found.units["characters"].name == f"{load_language(language).name}-pieces-40"
    again = CliRunner().invoke(
        app, ["pieces", str(text), "-o", str(tmp_path / "mine"), "--language", str(tmp_path / "mine")]
    )
    assert isinstance(again.exception, DataError)
    assert "is the language that is extended" in str(again.exception)
    assert (tmp_path / "mine").read_text() == files["mine"]


def test_decoders_write_words_in_pieces(tmp_path: Path) -> None:
    """A lexicon, hot words, phrases, and a model of letters, which scores the letters of a piece."""
    units = UnitSet("p", "characters", ("<blank>", " ", *"abcdefghijklmnopqrstuvwxyz", "th", "the", "er", "in", "ur"))
    words = ["turn", "the", "winter", "on"]
    assert [units.symbols[unit] for unit in Speller(units).sequences("there")[0]] == ["the", "r", "e"]
    heard = clear_log_probs(units.encode(words), len(units))
    assert BeamDecoder(units, lexicon=Lexicon.of_spellings(words, units)).decode(heard)[0].text == " ".join(words)
    plain, favoured = (BeamDecoder(units, hot_words=h).decode(heard)[0] for h in (None, HotWords([("winter", 5.0)])))
    assert favoured.score > plain.score + 4.0

    (tmp_path / "text.txt").write_text("the quick brown fox jumps over a lazy dog in winter\n" * 3)
    lm = build([tmp_path / "text.txt"], BuildConfig(order=3, letters=True))
    model = LetterModel(lm, units, 0.7, 0.4)
    state, total = model.start(), 0.0
    for letter in "the":
        total += model.score(state, units.index[letter])
        state = model.after(state, units.index[letter])
    assert model.score(model.start(), units.index["the"]) == pytest.approx(total)
    assert model.after(model.start(), units.index["the"]) == state
