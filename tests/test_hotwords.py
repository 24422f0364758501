"""Hot words: what is said and hot is found, what is not said gives its credit back to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.beam import BeamConfig, BeamDecoder
from edge_stt.errors import DataError, DecodingError
from edge_stt.hotwords import HotWords
from edge_stt.lexicon import Lexicon
from edge_stt.text import normalise_text
from edge_stt.units import ARPABET, ENGLISH_CHARACTERS

from .posteriors import peaky_log_probs, random_log_probs
from .test_beam import LEXICON, SOUNDS, UNPRUNED, character_decoder, small_lm, spoken

WORDS = st.sampled_from(["a", "b", "c"])
PHRASES = st.dictionaries(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), st.floats(0.5, 5.0), min_size=1)


@given(PHRASES, st.lists(WORDS, max_size=12))
def test_only_whole_phrases_count_in_the_end(phrases: dict[str, float], words: list[str]) -> None:
    hot_words = HotWords(phrases.items())
    state, total = 0, 0.0
    for word in words:
        expected = hot_words.expected(state)
        following, gain = hot_words.step(state, word)
        assert gain == pytest.approx(expected.get(word, -hot_words.credit(state)))
        assert gain <= hot_words.largest + 1e-9
        state, total = following, total + gain
    said = sum(
        weight
        for phrase, weight in phrases.items()
        for i in range(len(words))
        if words[i : i + len(phrase.split())] == phrase.split()
    )
    assert total - hot_words.credit(state) == pytest.approx(said)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000))
def test_the_search_stays_exact(seed: int) -> None:
    """Every text scores as without hot words, plus the weights of the phrases in it."""
    log_probs = random_log_probs(seed, 6, 4)
    weights = {("to", "be"): 2.0, ("either",): 1.0, ("be", "be"): 0.7, ("aba", "to"): 3.0}
    hot_words = HotWords((" ".join(words), weight) for words, weight in weights.items())
    lm = small_lm()
    lexicon = LEXICON.with_unigrams(lm)
    plain = {h.text: h.score for h in BeamDecoder(SOUNDS, UNPRUNED, lexicon, lm).decode(log_probs, 10_000)}
    found = BeamDecoder(SOUNDS, UNPRUNED, lexicon, lm, hot_words).decode(log_probs, 10_000)
    assert {h.text for h in found} == set(plain)
    for h in found:
        words = h.text.split()
        said = itertools.combinations(range(len(words) + 1), 2)
        bonus = sum(weights.get(tuple(words[i:j]), 0.0) for i, j in said)
        assert h.score == pytest.approx(plain[h.text] + bonus, abs=1e-5)


def test_a_hot_word_wins_where_the_acoustics_doubt() -> None:
    log_probs = spoken("turn the light in the kitchen off", errors=0.0).copy()
    d, n = ENGLISH_CHARACTERS.index["l"], ENGLISH_CHARACTERS.index["n"]
    place = int(log_probs[:, d].argmax())
    log_probs[place, n] = log_probs[place, d] + 0.5
    plain = character_decoder(BeamConfig(lm_weight=0.0, unknown_word_score=0.0))
    assert plain.decode(log_probs)[0].text == "turn the night in the kitchen off"
    config = BeamConfig(lm_weight=0.0, unknown_word_score=0.0)
    hot = character_decoder(config, HotWords([("Light", 2.0)]))
    assert hot.decode(log_probs)[0].text == "turn the light in the kitchen off"
    failing = character_decoder(config, HotWords([("light up", 2.0)]))
    assert failing.decode(log_probs)[0].text == "turn the night in the kitchen off"
    assert failing.decode(log_probs)[0].score == pytest.approx(plain.decode(log_probs)[0].score, abs=1e-6)


def test_credit_within_words_saves_them_from_pruning() -> None:
    """A narrow beam loses a word whose beginning is unlikely, unless the word is hot."""
    labels = [SOUNDS.index[s] for s in "ABA"]
    log_probs = peaky_log_probs(0, labels, 4, 0.0, margin=6.0).copy()
    first = int(log_probs[:, labels[0]].argmax())
    log_probs[first, 3] = log_probs[first, 2] + 2.0  # B is likelier where A was said
    lexicon = Lexicon.build([("aba", "ABA"), ("b", "B"), ("ba", "BA")], SOUNDS)
    narrow = BeamConfig(beam_width=1, word_insertion_bonus=0.0)
    assert BeamDecoder(SOUNDS, narrow, lexicon).decode(log_probs)[0].text != "aba"
    hot_words = HotWords([("aba", 12.0)])
    assert BeamDecoder(SOUNDS, narrow, lexicon, hot_words=hot_words).decode(log_probs)[0].text == "aba"


@dataclass
class Spelling:
    """A pronouncer for the sounds of these tests."""

    sounds: dict[str, Sequence[str]]

    def pronounce(self, word: str, n_best: int = 1) -> list[SpokenForm]:
        if word not in self.sounds:
            raise DataError(f"no way to say {word!r}")
        return [SpokenForm(tuple(sounds)) for sounds in self.sounds[word]][:n_best]


@dataclass
class SpokenForm:
    phonemes: tuple[str, ...]


def test_words_outside_the_lexicon_can_be_hot() -> None:
    lm = small_lm()
    lexicon = LEXICON.with_unigrams(lm)
    log_probs = peaky_log_probs(3, [SOUNDS.index[s] for s in "A|BBAB|B"], 4, 0.0)
    before = BeamDecoder(SOUNDS, None, lexicon, lm).decode(log_probs)[0].text
    assert "bubba" not in before
    hot_words = HotWords([("bubba", 4.0)])
    decoder = BeamDecoder(SOUNDS, None, lexicon, lm, hot_words, Spelling({"bubba": ["BBAB", "AB"]}))
    assert decoder.decode(log_probs)[0].text == "two bubba be"
    decoder.tree._count = 10**9
    assert decoder.decode(log_probs)[0].text == "two bubba be"  # also after the tree was grown anew
    assert "bubba" not in lexicon


@pytest.mark.parametrize("word", ["bubba", "héllo"])
def test_words_that_cannot_be_said_are_refused(word: str) -> None:
    hot_words = HotWords([("to be", 1.0), (word, 2.0)])
    for pronouncer in (None, Spelling({}), Spelling({word: [["A", "Q"]]}), Spelling({word: []})):
        with pytest.raises(DecodingError, match=word) as error:
            BeamDecoder(SOUNDS, None, LEXICON, None, hot_words, pronouncer)
        assert "\n" not in str(error.value)
    with pytest.raises(DecodingError, match="'é'"):
        BeamDecoder(ENGLISH_CHARACTERS, hot_words=HotWords([("héllo", 2.0)]))
    with pytest.raises(DecodingError, match="'2'"):
        BeamDecoder(ENGLISH_CHARACTERS, hot_words=HotWords([("channel 2", 2.0)]))


def test_a_phoneme_model_needs_a_lexicon_for_hot_words() -> None:
    with pytest.raises(DecodingError, match="lexicon"):
        BeamDecoder(ARPABET, hot_words=HotWords([("hello", 1.0)]))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "hot.txt"
    path.write_text("# for the kitchen\nHome Assistant\t3.5\n\nlight\nhome assistant\t1\n", encoding="utf-8")
    hot_words = HotWords.from_file(path, default_weight=1.5)
    assert hot_words.entries == {("home", "assistant"): 3.5, ("light",): 1.5}
    assert hot_words.words == ["home", "assistant", "light"]
    assert len(hot_words) == 2


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("a\tb\n", "hot.txt:1"),
        ("fine\t2\n\t3\n", "hot.txt:2"),
        ("fine\t-2\n", "weight"),
        ("fine\tnan\n", "weight"),
        ("fine\t1e9\n", "weight"),
        ("# nothing\n", "no hot words"),
        ("", "no hot words"),
        ("\xff", "hot.txt"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "hot.txt"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=named) as error:
        HotWords.from_file(path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="nowhere"):
        HotWords.from_file(tmp_path / "nowhere")


def test_phrases_are_favoured_as_transcripts_write_them() -> None:
    hot_words = HotWords([("Dr. Who", 3.0), ("E-Mail!", 2.0), ("caf\u00e9", 1.0)])
    written = hot_words.written(normalise_text)
    assert written.entries == {("doctor", "who"): 3.0, ("e", "mail"): 2.0, ("cafe",): 1.0}
    with pytest.raises(DecodingError, match="'!' has no letter"):
        HotWords([("!", 1.0)]).written(normalise_text)


def test_digits_are_favoured_as_they_are_said() -> None:
    for written, said in (("channel 2", "channel two"), ("Route 66", "route sixty six"), ("5th", "fifth")):
        assert HotWords([(written, 1.0)]).written(normalise_text).words == said.split()


@pytest.mark.parametrize("entries", [["a"], ["ab"], [("a",)], [("a", "2")], [(1, 2.0)], [None]])
def test_entries_that_are_no_pairs_are_refused(entries: list[Any]) -> None:
    with pytest.raises(DecodingError, match="pairs such as"):
        HotWords(entries)


def test_what_is_no_list_is_refused() -> None:
    for entries in (None, 5):
        with pytest.raises(DecodingError, match="a list of pairs"):
            HotWords(entries)  # type: ignore[arg-type]


def test_weights_may_be_any_numbers() -> None:
    weights: list[Any] = [2, np.float32(2), np.float64(2), np.int64(2)]
    for weight in weights:
        kept = HotWords([("a", weight)]).entries[("a",)]
        assert kept == 2.0
        assert type(kept) is float


@pytest.mark.parametrize(
    "entry", [("", 1.0), ("  ", 1.0), ("a", 0.0), ("a", float("inf")), ("a", float("nan")), ("a", 10**400)]
)
def test_bad_entries_are_refused(entry: tuple[str, float]) -> None:
    with pytest.raises(DecodingError):
        HotWords([entry])


def test_recombination_keeps_what_hot_words_expect_apart() -> None:
    """Two histories with the same future but for a phrase that has begun are not made one."""
    lm = small_lm()
    lexicon = LEXICON.with_unigrams(lm)
    log_probs = peaky_log_probs(0, [SOUNDS.index[s] for s in "A|B|B"], 4, 0.0)
    hot_words = HotWords([("two be be", 9.0)])
    config = replace(BeamConfig(), beam_width=8)
    assert BeamDecoder(SOUNDS, config, lexicon, lm).decode(log_probs)[0].text == "to be be"
    assert BeamDecoder(SOUNDS, config, lexicon, lm, hot_words).decode(log_probs)[0].text == "two be be"
