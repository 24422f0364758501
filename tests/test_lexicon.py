"""The lexicon: what goes in comes out, whatever the words; files are the same each time and refuse damage."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt import files, lexicon, lm_file, report
from edge_stt.errors import DecodingError, EdgeSttError
from edge_stt.lexicon import LOG_STEP, MAX_UNITS, ROOT, Lexicon
from edge_stt.units import ARPABET, ENGLISH_CHARACTERS

from .posteriors import edit_distance

PHONEMES = ARPABET.symbols[2:]
ENTRIES = st.lists(
    st.tuples(
        st.text("abcdé'", min_size=1, max_size=6),
        st.lists(st.sampled_from(PHONEMES[:4]), min_size=1, max_size=5).map(tuple),
        st.floats(-8.0, 0.0),
    ),
    min_size=1,
    max_size=40,
)
HOMOPHONES = [
    ("too", "T UW"),
    ("two", "T UW"),
    ("to", "T UW"),
    ("to", "T AH"),
    ("tool", "T UW L"),
    ("read", "R EH D"),
    ("read", "R IY D"),
    ("reed", "R IY D"),
]


def homophones() -> Lexicon:
    return Lexicon.build(((word, sounds.split()) for word, sounds in HOMOPHONES), ARPABET)


def words_of(lexicon: Lexicon, symbols: Sequence[str]) -> list[str]:
    """The words with exactly this spelling or pronunciation."""
    node = lexicon.find([lexicon.units.index[symbol] for symbol in symbols])
    return [] if node is None else [lexicon.words[word] for word, _ in lexicon.entries(node)]


@settings(deadline=None)  # a busy machine is not an error
@given(ENTRIES)
def test_everything_comes_back(entries: list[tuple[str, tuple[str, ...], float]]) -> None:
    lexicon = Lexicon.build(entries, ARPABET)
    expected: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for word, symbols, weight in entries:
        expected[word][symbols] = max(weight, expected[word].get(symbols, -np.inf))
    assert list(lexicon.words) == sorted(expected)
    for word, variants in expected.items():
        assert word in lexicon
        found = lexicon.pronunciations(word)
        assert sorted(found) == sorted(variants)
        weights = [variants[symbols] for symbols in found]
        assert all(a >= b - LOG_STEP for a, b in itertools.pairwise(weights))  # the likeliest first
        for symbols, weight in variants.items():
            node = lexicon.find([ARPABET.index[s] for s in symbols])
            assert node is not None
            kept = dict(lexicon.entries(node))[lexicon.words.index(word)]
            assert kept == pytest.approx(weight, abs=LOG_STEP / 2 + 1e-9)
    assert "zz" not in lexicon
    assert lexicon.pronunciations("zz") == []


@settings(deadline=None)  # a busy machine is not an error
@given(ENTRIES)
def test_the_tree_is_a_tree(entries: list[tuple[str, tuple[str, ...], float]]) -> None:
    lexicon = Lexicon.build(entries, ARPABET)
    sequences = {tuple(ARPABET.index[s] for s in symbols) for _, symbols, _ in entries}
    prefixes = {sequence[:i] for sequence in sequences for i in range(len(sequence) + 1)}
    reached = {ROOT: ()}
    for node in range(len(lexicon.unit)):
        units = [int(lexicon.unit[child]) for child in lexicon.children(node)]
        assert units == sorted(set(units))
        for child, unit in zip(lexicon.children(node), units, strict=True):
            reached[child] = (*reached[node], unit)
        assert lexicon.sequence(node) == reached[node]
        assert (next(lexicon.entries(node), None) is not None) == (reached[node] in sequences)
    assert set(reached.values()) == prefixes
    assert len(reached) == len(lexicon.unit) == len(prefixes)


@settings(deadline=None)  # a busy machine is not an error
@given(ENTRIES, st.integers(0, 2**32 - 1))
def test_look_ahead_is_the_best_word_below(entries: list[tuple[str, tuple[str, ...], float]], seed: int) -> None:
    lexicon = Lexicon.build(entries, ARPABET)
    scores = np.random.default_rng(seed).uniform(-15.0, 0.0, len(lexicon)).astype(np.float32)
    lexicon = lexicon.with_scores(scores)
    sequences = [lexicon.sequence(node) for node in range(len(lexicon.unit))]
    for node, prefix in enumerate(sequences):
        below = [
            weight + scores[word]
            for other, sequence in enumerate(sequences)
            if sequence[: len(prefix)] == prefix
            for word, weight in lexicon.entries(other)
        ]
        assert -LOG_STEP * lexicon.look_ahead[node] == pytest.approx(max(*below, -15.94), abs=LOG_STEP)


@settings(deadline=None)  # a busy machine is not an error
@given(ENTRIES, st.lists(st.sampled_from(PHONEMES[:5]), min_size=1, max_size=6).map(tuple), st.integers(1, 6))
def test_nearest_is_the_edit_distance(
    entries: list[tuple[str, tuple[str, ...], float]], symbols: tuple[str, ...], n_best: int
) -> None:
    lexicon = Lexicon.build(entries, ARPABET)
    distances: dict[str, int] = {}
    for word, sequence, _ in entries:
        distances[word] = min(edit_distance(symbols, sequence), distances.get(word, 99))
    found = lexicon.nearest(symbols, n_best)
    assert len(found) == min(n_best, len(distances))
    assert all(distances[word] == distance for word, distance in found)
    assert [distance for _, distance in found] == sorted(distances.values())[: len(found)]


def test_homophones_and_variants() -> None:
    lexicon = homophones()
    assert words_of(lexicon, ["T", "UW"]) == ["to", "too", "two"]
    assert words_of(lexicon, ["T"]) == []
    assert words_of(lexicon, ["T", "UW", "T"]) == []
    assert sorted(lexicon.pronunciations("read")) == [("R", "EH", "D"), ("R", "IY", "D")]
    assert lexicon.nearest(["T", "UH", "L"], 1) == [("tool", 1)]
    frequent_two = lexicon.with_scores(np.array([-2.0, -3.0, -9.0, -1.0, -9.0, -0.5], np.float32)[: len(lexicon)])
    assert frequent_two.nearest(["T", "UW"], 1)[0][0] == max(
        ["to", "too", "two"], key=lambda w: -int(frequent_two.word_score[list(frequent_two.words).index(w)])
    )


def test_files(tmp_path: Path) -> None:
    lexicon = homophones().with_scores(np.linspace(-9.0, -1.0, 6, dtype=np.float32))
    path = tmp_path / "words.lexicon"
    lexicon.save(path)
    assert path.read_bytes() == lexicon.to_bytes()
    shuffled = Lexicon.build(((w, s.split()) for w, s in reversed(HOMOPHONES)), ARPABET)
    assert shuffled.with_scores(np.linspace(-9.0, -1.0, 6, dtype=np.float32)).to_bytes() == lexicon.to_bytes()
    loaded = Lexicon.load(path)
    assert loaded.to_bytes() == lexicon.to_bytes()
    assert loaded.units == ARPABET
    assert words_of(loaded, ["R", "IY", "D"]) == words_of(lexicon, ["R", "IY", "D"]) == ["read", "reed"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_made_and_an_impossible_one_named(tmp_path: Path) -> None:
    homophones().save(tmp_path / "new" / "folder" / "words.lexicon")
    assert len(Lexicon.load(tmp_path / "new" / "folder" / "words.lexicon")) == len(homophones())
    with pytest.raises(EdgeSttError, match=r"cannot write /proc/none/words\.lexicon: "):
        homophones().save(Path("/proc/none/words.lexicon"))


def _replace(path: Path) -> None:
    with lm_file.replacing(path) as file:
        file.write(b"x")
        file.close()  # as gzip and the text layer over it may


@pytest.mark.parametrize(
    "write",
    [
        homophones().save,
        _replace,
        lambda path: report.write_atomically(path, b"x"),
        lambda path: files.write_atomically(path, "x"),
        lambda path: files.write_atomically(path, iter(["x"])),
    ],
)
def test_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> None:
    """All that is written whole or not at all: the mode of other files, on the disk at once, nothing left behind."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    (tmp_path / "folder").mkdir()
    with pytest.raises(EdgeSttError, match=r"Is a directory$"):
        write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert synced[-1] == (tmp_path / "file").stat().st_size > 0


@settings(deadline=None)  # a busy machine is not an error
@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    content = bytearray(homophones().to_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    with pytest.raises(DecodingError, match=r"words\.lexicon"):
        Lexicon.from_buffer(bytes(content), "words.lexicon")


def test_a_header_nested_without_end_is_refused() -> None:
    content = struct.pack("<Q", 100_000) + b"[" * 100_000
    with pytest.raises(DecodingError, match=r"words\.lexicon is damaged"):
        Lexicon.from_buffer(lexicon.MAGIC + struct.pack("<Q", zlib.crc32(content)) + content, "words.lexicon")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodingError, match=r"nothing\.lexicon"):
        Lexicon.load(tmp_path / "nothing.lexicon")
    (tmp_path / "empty").touch()
    with pytest.raises(DecodingError, match="empty"):
        Lexicon.load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([], "at least one word"),
        ([("to", [])], "'to'"),
        ([("to", ["T", "Ü"])], "'Ü'"),
        ([("to", ["|"])], "'|'"),
        ([("to", ["<blank>"])], "<blank>"),
        ([("to", ["T"] * (MAX_UNITS + 1))], "'to'"),
    ],
)
def test_impossible_words_are_refused(entries: list[tuple[str, list[str]]], named: str) -> None:
    with pytest.raises(DecodingError) as error:
        Lexicon.build(entries, ARPABET)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_must_fit() -> None:
    with pytest.raises(DecodingError, match="as many scores"):
        homophones().with_scores(np.zeros(3, np.float32))


def test_a_large_lexicon_is_small() -> None:
    """120,000 words of English-like length and branching."""
    rng = np.random.default_rng(5)
    letters = "etaoinshrdlcumwfgypbvk"
    weights = np.arange(len(letters), 0, -1) ** 2.0
    lengths = rng.integers(2, 11, 160_000)
    drawn = "".join(rng.choice(list(letters), int(lengths.sum()), p=weights / weights.sum()))
    ends = np.cumsum(lengths)
    words = sorted({drawn[end - n : end] for end, n in zip(ends, lengths, strict=True)})[:120_000]
    lexicon = Lexicon.of_spellings(words, ENGLISH_CHARACTERS)
    assert len(lexicon) == len(words) > 100_000
    assert len(lexicon.to_bytes()) < 8_000_000
    for word in words[:: len(words) // 50]:
        assert words_of(lexicon, word) == [word]
