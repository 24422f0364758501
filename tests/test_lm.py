"""Language models: scoring, ARPA files, the compact form."""

import gzip
import hashlib
import math
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt import lm_arpa, lm_file
from edge_stt.errors import DecodingError
from edge_stt.lm import LanguageModel, NgramError, Ngrams, measure_perplexity

LN10 = math.log(10)
ARPA = """\
made by hand

\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-99\t<s>\t-0.3
-2.0\t<unk>
-1.0\t</s>
-0.7\tred\t-0.2
-0.9\tlight\t-0.1

\\2-grams:
-0.4\t<s> red\t-0.25
-0.2\tred light\t-0.05
-0.6\tlight </s>
-1.3\tlight light

\\3-grams:
-0.1\t<s> red light
-0.15\tred light </s>

\\end\\
"""


def write(folder: Path, text: str, name: str = "x.arpa") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return LanguageModel.load(write(tmp_path, ARPA))


def log10_scores(model: LanguageModel, text: str) -> list[float]:
    return [score / LN10 for score in model.score_sentence(text.split())]


def test_scores_by_hand(model: LanguageModel) -> None:
    assert (model.order, model.counts) == (3, (5, 4, 2))
    assert log10_scores(model, "red light") == pytest.approx([-0.4, -0.1, -0.15])
    # <s> light: back-off of <s>; light red: of light; then red </s>: nothing of "light red", back-off of red.
    assert log10_scores(model, "light red") == pytest.approx([-0.3 - 0.9, -0.1 - 0.7, -0.2 - 1.0])
    # <s> red red: back-offs of "<s> red" and of "red"; red green: unknown; green light: a context that has none.
    assert log10_scores(model, "red red green light") == pytest.approx(
        [-0.4, -0.25 - 0.2 - 0.7, -0.2 - 2.0, -0.9, -0.6]
    )
    assert log10_scores(model, "") == pytest.approx([-0.3 - 1.0])


def test_states_are_as_short_as_scores_allow(model: LanguageModel) -> None:
    red, light = model.word_id("red"), model.word_id("light")
    assert model.word_id("green") == model.unknown_id
    assert model.start_state() == (model.start_id,)
    assert model.empty_state() == ()
    assert model.score(model.start_state(), red)[1] == (model.start_id, red)
    assert model.score((model.start_id, red), light)[1] == (red, light)
    assert model.score((red, light), light)[1] == (light,)  # "light light" has neither extensions nor a back-off
    assert model.score((red, light), model.unknown_id)[1] == ()
    assert model.score(model.empty_state(), light)[0] == pytest.approx(-0.9 * LN10)


def test_perplexity_counts_unknown_words_apart(model: LanguageModel) -> None:
    result = measure_perplexity(model, [["red", "green", "light"], ["light"]])
    assert (result.sentences, result.words, result.unknown_words) == (2, 4, 1)
    known = [-0.4, -0.9, -0.6, -1.2, -0.6]
    unknown = -0.25 - 0.2 - 2.0
    assert result.including_unknown == pytest.approx(10 ** (-(sum(known) + unknown) / 6), rel=1e-6)
    assert result.excluding_unknown == pytest.approx(10 ** (-sum(known) / 5), rel=1e-6)


@pytest.mark.parametrize("name", ["x.arpa.gz", "no-suffix", "x.lm"])
def test_form_is_told_by_content(tmp_path: Path, name: str) -> None:
    packed = name.endswith(".gz")
    assert LanguageModel.load(write(tmp_path, ARPA, name if packed else "x.arpa")).counts == (5, 4, 2)
    assert LanguageModel.load(write(tmp_path, ARPA, name)).counts == (5, 4, 2)


def test_habits_of_other_writers(tmp_path: Path, model: LanguageModel) -> None:
    quirky = ARPA.replace("\t", "  ").replace("<unk>", "<UNK>").replace("\n", "\r\n").replace("ngram 1=", "ngram  1 = ")
    quirky = quirky.replace("-99  <s>", "-inf  <s>").replace("\\end\\", "\\end\\\nmore of something")
    same = LanguageModel.load(write(tmp_path, quirky))
    assert log10_scores(same, "red red green light") == pytest.approx(log10_scores(model, "red red green light"))
    # Sections in another sequence of words, and the highest order announced but empty.
    shuffled = ARPA.replace("ngram 3=2", "ngram 3=2\nngram 4=0").replace("\n\\end", "\n\\4-grams:\n\n\\end")
    lines = shuffled.split("\n")
    start = lines.index("\\2-grams:") + 1
    lines[start : start + 4] = reversed(lines[start : start + 4])
    same = LanguageModel.load(write(tmp_path, "\n".join(lines)))
    assert same.order == 3
    assert log10_scores(same, "red light light") == pytest.approx(log10_scores(model, "red light light"))


def test_model_without_unknown_words_gets_them(tmp_path: Path) -> None:
    model = LanguageModel.load(write(tmp_path, ARPA.replace("-2.0\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4")))
    assert log10_scores(model, "green")[0] == pytest.approx(-0.3 - 100)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ngram 2=4", "ngram 2=5", r":21: the header says 5 2-grams, the section has 4"),
        ("\\2-grams:", "\\3-grams:", r":15: expected \\2-grams:, found"),
        ("\\3-grams:\n-0.1\t<s> red light\n-0.15\tred light </s>\n\n", "", r"expected \\3-grams:, found"),
        ("\\end\\", "", "may be cut short"),
        ("-0.4\t<s>", "nan\t<s>", r":16: a log probability cannot be 'nan'"),
        ("-0.4\t<s>", "0.4\t<s>", r":16: a log probability cannot be '0.4'"),
        ("-0.4\t<s>", "x\t<s>", r":16: the log probability 'x' is not a number"),
        ("red\t-0.25", "red\tnan", r":16: a back-off weight cannot be 'nan'"),
        ("red\t-0.25", "red\tinf", r":16: a back-off weight cannot be 'inf'"),
        ("red\t-0.25", "red light -0.2 3", r":16: expected log probability, 2 words"),
        ("-0.4\t<s> red", "-0.4\t<s>", r"not among the 1-grams|expected log probability"),
        ("<s> red\t", "<s> blue\t", r":16: the word 'blue' is not among the 1-grams"),
        ("red light\t-0.05", "<s> red\t-0.05", r":17: the 2-gram '<s> red' is there twice"),
        ("-0.7\tred\t", "-0.7\tlight\t", r"the 1-gram 'light' is there twice"),
        ("-0.15\tred light </s>", "-0.15\tred red </s>", r":23: the 3-gram 'red red </s>' extends a context that"),
        ("-99\t<s>\t-0.3", "-99\tstart\t-0.3", r"the word '<s>' is not among"),
        ("ngram 2=4", "ngram two=4", r":5: expected 'ngram 2=COUNT', found"),
        ("ngram 1=5\nngram 2=4\nngram 3=2\n", "", r"expected 'ngram 1=COUNT', found"),
        ("\\data\\\n", "", r"before \\data\\"),
        ("\n\\1-grams", "\nsomething\n\\1-grams", r"expected \\1-grams:, found 'something'"),
    ],
)
def test_broken_arpa_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ARPA
    path = write(tmp_path, ARPA.replace(old, new, 1))
    with pytest.raises(DecodingError, match=message) as caught:
        LanguageModel.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    def refused(data: bytes, message: str) -> None:
        path = tmp_path / "model"
        path.write_bytes(data)
        with pytest.raises(DecodingError, match=message) as caught:
            LanguageModel.load(path)
        assert "\n" not in str(caught.value)

    refused(b"", "neither our binary form nor ARPA")
    refused(b"just a text\n" * 9, "neither our binary form nor ARPA")
    refused(b"mmap lm http://kheafield.com/code format version 5\n\0", "KenLM binary")
    refused(gzip.compress(ARPA.encode())[:-40], "cut short or damaged after line")
    refused(b"\x1f\x8b then no gzip", "cut short or damaged")
    refused(ARPA.replace("red", "r\udcff").encode("utf-8", "surrogateescape"), "not UTF-8")
    refused(ARPA.replace("<s>", "start").encode(), "lacks <s>")
    with pytest.raises(DecodingError, match="no language model at"):
        LanguageModel.load(tmp_path / "missing")
    with pytest.raises(DecodingError, match="no language model at"):
        LanguageModel.load(tmp_path)


@given(cut=st.integers(0, len(ARPA) - 8))
@settings(max_examples=60, deadline=None)
def test_arpa_cut_anywhere_is_an_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    with pytest.raises(DecodingError):
        LanguageModel.load(write(tmp_path_factory.getbasetemp(), ARPA[:cut]))


def random_model(seed: int, order: int, words: int = 40, density: int = 300) -> LanguageModel:
    """A model with made-up numbers whose n-grams extend each other as they must."""
    numbers = np.random.default_rng(seed)
    vocabulary = ["<s>", "café", "</s>", "<unk>", *(f"w{i}" for i in range(words - 4))]
    orders = []
    rows = np.arange(words, dtype=np.uint32)[:, None]
    for n in range(1, order + 1):
        if n > 1:
            contexts = rows[numbers.integers(len(rows), size=density)]
            extended = np.concatenate([contexts, numbers.integers(words, size=(density, 1))], axis=1)
            rows = np.unique(extended, axis=0).astype(np.uint32)
            numbers.shuffle(rows)
        backoffs = np.where(numbers.random(len(rows)) < 0.7, numbers.normal(-0.5, 0.7, len(rows)), 0.0)
        log_probs = -numbers.exponential(4.0, len(rows))
        orders.append(Ngrams(rows, log_probs.astype(np.float32), (backoffs * (n < order)).astype(np.float32)))
    return LanguageModel.from_ngrams(vocabulary, orders)


def plain_score(model: LanguageModel, words: list[int]) -> float:
    """Katz back-off as defined, from dictionaries: log P(last word | the ones before)."""
    tables = [model.ngrams(n) for n in range(1, model.order + 1)]
    values = {
        tuple(w): (p, b) for t in tables for w, p, b in zip(t.words.tolist(), t.log_probs, t.backoffs, strict=True)
    }
    history, word = words[:-1][-(model.order - 1) :] if model.order > 1 else [], words[-1]
    total = 0.0
    while (*history, word) not in values:
        total += values.get(tuple(history), (0.0, 0.0))[1]
        history = history[1:]
    return total + float(values[(*history, word)][0])


@given(seed=st.integers(0, 10**6), order=st.integers(1, 5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_scores_equal_the_definition(seed: int, order: int, data: st.DataObject) -> None:
    model = random_model(seed, order)
    words = data.draw(st.lists(st.integers(0, 39), max_size=12))
    # Half the time, walk along an n-gram that exists.
    for _ in range(2):
        state, history = model.empty_state(), []
        for word in words:
            score, after = model.score(state, word)
            history.append(word)
            assert score == pytest.approx(plain_score(model, history), abs=1e-5)
            assert len(after) < max(order, 2)
            assert after == tuple(history[len(history) - len(after) :])
            state = after
        ngrams = model.ngrams(order).words
        words = [*ngrams[seed % len(ngrams)].tolist(), *ngrams[(seed + 7) % len(ngrams)].tolist()]


@given(seed=st.integers(0, 10**6), order=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, seed: int, order: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    model = random_model(seed, order)
    lm_arpa.write(model, folder / "r.arpa.gz")
    from_arpa = LanguageModel.load(folder / "r.arpa.gz")
    model.save(folder / "r.lm")
    compact = LanguageModel.load(folder / "r.lm")
    compact.save(folder / "again.lm")
    again = LanguageModel.load(folder / "again.lm")
    assert list(compact.vocabulary) == list(from_arpa.vocabulary) == list(model.vocabulary)
    assert compact.counts == from_arpa.counts == model.counts
    for n in range(1, order + 1):
        exact, text, packed = (m.ngrams(n) for m in (model, from_arpa, compact))
        assert np.array_equal(exact.words, text.words)
        assert np.array_equal(exact.words, packed.words)
        for field in ("log_probs", "backoffs"):
            assert np.array_equal(getattr(again.ngrams(n), field), getattr(packed, field))  # nothing more is lost
            values = getattr(exact, field)
            np.testing.assert_allclose(getattr(text, field), values, rtol=1e-5, atol=1e-6)
            bound = 0.0 if n == 1 else 2 / 254 * np.ptp(values)
            assert np.abs(getattr(packed, field) - values).max() <= bound + 1e-5
            assert np.all((getattr(packed, field) == 0)[values == 0])


@given(st.lists(st.floats(-100, 5, width=32), min_size=1, max_size=2000), st.integers(8, 256))
@settings(max_examples=60, deadline=None)
def test_codebooks_bound_the_error(values: list[float], size: int) -> None:
    array = np.array(values, np.float32)
    book = lm_file.make_codebook(array, size)
    assert len(book) <= size
    coded = book[lm_file.nearest_codes(array, book)]
    limit = 0.0 if len(set(values)) <= size else 1 / ((size - 1) // 2) * np.ptp(array)
    assert np.abs(coded - array).max() <= limit + 1e-4


@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_what_is_quantised_already_stays_as_it_is(seed: int, count: int, extremes: int) -> None:
    numbers = np.random.default_rng(seed)
    values = np.concatenate([numbers.normal(-2, 0.3, count), numbers.uniform(-90, 0, extremes), [0.0]]).astype("f")
    book, codes = lm_file.quantise(values)
    assert set(codes.tolist()) == set(range(len(book)))
    again, same = lm_file.quantise(book[codes])
    assert np.array_equal(again, book)
    assert np.array_equal(same, codes)


def test_vocabulary_beyond_two_bytes(tmp_path: Path) -> None:
    words = 70_000
    vocabulary = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(words - 3))]
    unigrams = Ngrams(np.arange(words, dtype=np.uint32)[:, None], np.full(words, -11, np.float32), np.zeros(words, "f"))
    # One context with more extensions than a byte counts.
    many = np.stack([np.full(words, 5), np.arange(words)], axis=1).astype(np.uint32)
    bigrams = Ngrams(many, np.linspace(-9, -1, words, dtype=np.float32), np.zeros(words, np.float32))
    LanguageModel.from_ngrams(vocabulary, [unigrams, bigrams]).save(tmp_path / "big.lm")
    model = LanguageModel.load(tmp_path / "big.lm")
    assert model.score((5,), words - 1)[0] == pytest.approx(-1, abs=0.1)
    assert model.score((6,), words - 1) == (-11.0, ())


def test_ngrams_that_cannot_be_placed() -> None:
    model = random_model(3, 2)
    unigrams, bigrams = model.ngrams(1), model.ngrams(2)
    twice = Ngrams(*(np.concatenate([v, v[:1]]) for v in (bigrams.words, bigrams.log_probs, bigrams.backoffs)))
    with pytest.raises(NgramError, match="there twice") as caught:
        LanguageModel.from_ngrams(model.vocabulary, [unigrams, twice])
    assert (caught.value.order, caught.value.row) == (2, len(bigrams.words))


def test_damage_to_the_compact_form_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.lm"
    random_model(1, 3).save(path)
    whole = path.read_bytes()
    for position in range(12, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(DecodingError, match=r"damaged|format|update"):
            LanguageModel.load(path)
    for size in (12, 30, 60, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DecodingError, match=r"damaged|cut short"):
            LanguageModel.load(path)
    path.write_bytes(whole[:12] + struct.pack("<I", 99) + whole[16:])
    with pytest.raises(DecodingError, match="format 99"):
        LanguageModel.load(path)


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.lm"
    body = struct.pack("<Q", 100_000) + b"[" * 100_000
    path.write_bytes(struct.pack("<12sI32s", lm_file.MAGIC, 1, hashlib.sha256(body).digest()) + body)
    with pytest.raises(DecodingError, match="is damaged"):
        LanguageModel.load(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_unverified_damage_never_crashes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "unverified.lm"
    random_model(1, 3).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(48, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        model = lm_file.read(path, verify=False)
    except DecodingError:
        return
    model.score_sentence(["w1", "w2", "café"])


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.arpa"
    lm_arpa.write(random_model(1, 2), path)
    before = path.read_bytes()
    broken = random_model(2, 2)
    monkeypatch.setattr(broken, "ngrams", lambda order: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lm_arpa.write(broken, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DecodingError, match="cannot be written"):
        random_model(1, 2).save(tmp_path / "no" / "such" / "folder.lm")


def test_cached_scores_are_quick_and_the_cache_bounded() -> None:
    model = random_model(5, 3, words=3000, density=3000)
    numbers = np.random.default_rng(0)
    for word in numbers.integers(3000, size=40_000).tolist():
        model.score((word,), word)
    assert model._cached_score.cache_info().currsize <= 1 << 14
    assert model._contexts.cache_info().currsize <= 1 << 13
    state = model.start_state()
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(1000):
            model.score(state, 7)
        best = min(best, time.perf_counter() - started)
    assert best / 1000 < 20e-6  # 0.4 µs measured; the rest is for busy machines
