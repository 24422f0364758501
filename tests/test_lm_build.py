"""Training of language models, and ``edge-stt lm``."""

import gzip
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_stt import lm_arpa, lm_build
from edge_stt.commands.lm import app, parse_size
from edge_stt.errors import DataError, EdgeSttError, UsageError
from edge_stt.lm import LanguageModel, measure_perplexity
from edge_stt.lm_build import FALLBACK_DISCOUNTS, BuildConfig, build, discounts_from
from edge_stt.lm_count import NgramCounter, read_sentences, store_corpus, window_keys

LN10 = math.log(10)


def made_up_sentences(seed: int, count: int) -> list[str]:
    """Sentences with a long tail of rare words, and words that call for others."""
    numbers = random.Random(seed)
    sentences = []
    for _ in range(count):
        word, words = 0, []
        while not words or numbers.random() > 0.1:
            word = (word * 7 + 1) % 5000 if numbers.random() < 0.4 else int(1 / (numbers.random() + 0.0002))
            words.append(f"w{word}")
        sentences.append(" ".join(words))
    return sentences


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text("\n".join(made_up_sentences(1, 2000)) + "\n")
    return path


def config(**settings: object) -> BuildConfig:
    return BuildConfig(**{"normalise": False, **settings})  # type: ignore[arg-type]


def table(model: LanguageModel, order: int) -> dict[str, tuple[float, float]]:
    """N-gram → log10 probability and back-off."""
    ngrams = model.ngrams(order)
    return {
        " ".join(model.vocabulary[i] for i in words): (p / LN10, b / LN10)
        for words, p, b in zip(ngrams.words.tolist(), ngrams.log_probs, ngrams.backoffs, strict=True)
    }


# Figures of KenLM's lmplz and query (kenlm 0.3.0) on made_up_sentences(1, 2000) and (2, 200):
# `lmplz -o 3 < train > a.arpa; query a.arpa < test`, and the same with `--prune 0 1 2`.
LMPLZ = [
    (
        (),
        (428, 1687, 3817),
        (8.045967683927177, 7.438224500227406),
        {
            "<unk>": (-3.3102286, 0),
            "</s>": (-1.1267304, 0),
            "w3": (-1.2680541, -0.77284837),
            "w15 </s>": (-1.0029922, 0),
            "w1 w8": (-0.7740203, -1.5699309),
            "<s> w2": (-0.98608816, -1.004011),
            "<s> w1 w8": (-0.43192416, 0),
            "w1 w8 w57": (-0.44503552, 0),
        },
    ),
    (
        (0, 1, 2),
        (428, 661, 789),
        (8.213024659964663, 7.613368573380178),
        {
            "<unk>": (-3.3102286, 0),
            "w3": (-1.2680541, -0.7356843),
            "w15 </s>": (-0.9868016, 0),
            "w1 w8": (-0.7734131, -1.4777309),
            "<s> w2": (-0.98507833, -0.9408761),
            "<s> w1 w8": (-0.42998356, 0),
            "w1 w8 w57": (-0.4440832, 0),
        },
    ),
]


@pytest.mark.parametrize(("prune", "counts", "perplexity", "values"), LMPLZ, ids=["whole", "pruned"])
def test_equals_lmplz(
    text: Path,
    prune: tuple[int, ...],
    counts: tuple[int, ...],
    perplexity: tuple[float, float],
    values: dict[str, tuple[float, float]],
) -> None:
    model = build([text], config(prune_counts=prune))
    assert model.counts == counts
    for ngram, expected in values.items():
        assert table(model, len(ngram.split()))[ngram] == pytest.approx(expected, abs=2e-6)
    result = measure_perplexity(model, [sentence.split() for sentence in made_up_sentences(2, 200)])
    assert result.unknown_words == 24
    assert result.including_unknown == pytest.approx(perplexity[0], rel=1e-5)
    assert result.excluding_unknown == pytest.approx(perplexity[1], rel=1e-5)


def test_small_text_takes_fallback_discounts(tmp_path: Path) -> None:
    """Figures of `lmplz -o 3 --discount_fallback`, whose orders 2 and 3 here rest on a miscount of its last n-gram."""
    path = tmp_path / "text"
    path.write_text("a b c d\na b c d\na b\n")
    found = {word: p for word, (p, _) in table(build([path], config()), 1).items()}
    expected = {"<unk>": -1.0791812, "</s>": -0.60206, **dict.fromkeys("abcd", -0.7781512)}
    assert found == pytest.approx({**expected, "<s>": -99}, abs=1e-5)


def test_discounts() -> None:
    assert discounts_from([100, 50, 25, 12]) == pytest.approx((0.5, 1.25, 2.04))  # Y = 100 / 200
    for unusable in ([0, 5, 5, 5], [5, 5, 0, 1], [1, 2, 30, 4], [1, 1, 1, 1000]):
        assert discounts_from(unusable) == FALLBACK_DISCOUNTS


def kneser_ney(sentences: list[list[str]], order: int, vocabulary: list[str]) -> dict[tuple[str, ...], float]:
    """Chen & Goodman's formulas, word for word: P(last | before) for each n-gram seen, and each word."""
    raw: Counter[tuple[str, ...]] = Counter()
    for sentence in sentences:
        words = ["<s>", *(w if w in vocabulary else "<unk>" for w in sentence), "</s>"]
        raw.update(tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1))
    del raw[("<s>",)]
    before: Counter[tuple[str, ...]] = Counter(ngram[1:] for ngram in raw if len(ngram) > 1)
    adjusted = {g: c if len(g) == order or g[0] == "<s>" else before[g] for g, c in raw.items()}
    known: dict[tuple[str, ...], float] = {}
    for n in range(1, order + 1):
        of_order = {g: c for g, c in adjusted.items() if len(g) == n}
        discounts = (0.0, *discounts_from([sum(c == k for c in of_order.values()) for k in (1, 2, 3, 4)]))
        words = [w for w in [*vocabulary, "</s>", "<unk>"] if w != "<s>"]
        candidates = [(w,) for w in words] if n == 1 else list(of_order)
        for ngram in candidates:
            same = {g: c for g, c in of_order.items() if g[:-1] == ngram[:-1]}
            total = sum(same.values())
            free = sum(discounts[min(c, 3)] for c in same.values()) / total
            lower = known[ngram[1:]] if n > 1 else 1 / len(words)
            count = of_order.get(ngram, 0)
            known[ngram] = max(count - discounts[min(count, 3)], 0) / total + free * lower
    return known


SENTENCES = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7), min_size=1, max_size=25)


@given(sentences=SENTENCES, order=st.integers(1, 4), known=st.sampled_from(["abcdefg", "abc"]))
@settings(max_examples=40, deadline=None)
def test_equals_the_formulas(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[str]], order: int, known: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "formulas.txt"
    path.write_text("\n".join(map(" ".join, sentences)))
    model = build([path], config(order=order, vocabulary=tuple(known)))
    expected = kneser_ney(sentences, order, list(known))
    assert sum(model.counts) == len(expected) + 1  # and <s>
    found = {tuple(g.split()): 10**p for n in range(1, order + 1) for g, (p, _) in table(model, n).items()}
    for ngram, probability in expected.items():
        assert found[ngram] == pytest.approx(probability, rel=1e-4)


def sums_to_one(model: LanguageModel, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    predicted = [i for i in range(len(model.vocabulary)) if i != model.start_id]
    for _ in range(12):
        state = model.start_state()
        for word in numbers.integers(3, min(60, len(model.vocabulary)), size=4).tolist():
            assert sum(math.exp(model.score(state, w)[0]) for w in predicted) == pytest.approx(1, abs=1e-4)
            state = model.score(state, word)[1]


@pytest.mark.parametrize(
    "settings",
    [{}, {"order": 4}, {"prune_counts": (0, 1, 2)}, {"prune_entropy": 1e-4}, {"min_count": 3}, {"order": 1}],
    ids=str,
)
def test_probabilities_sum_to_one(text: Path, settings: dict[str, object]) -> None:
    sums_to_one(build([text], config(**settings)), 1)


def test_spilling_to_disk_changes_nothing(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_stt.lm_count._TOKENS_A_CHUNK", 500)
    spilled = []
    settle = NgramCounter._settle
    monkeypatch.setattr(NgramCounter, "_settle", lambda self: (settle(self), spilled.append(len(self._runs)))[0])
    for number, extra in enumerate(({}, {"prune_entropy": 1e-4}, {"order": 4, "prune_counts": (0, 0, 1)})):
        build([text], config(memory=1, **extra)).save(tmp_path / "small.lm")
        assert max(spilled) > 1
        spilled.clear()
        build([text], config(**extra)).save(tmp_path / "large.lm")
        assert max(spilled) == 0
        assert (tmp_path / "small.lm").read_bytes() == (tmp_path / "large.lm").read_bytes(), number


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), max_size=400), st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_counter_adds_up(
    tmp_path_factory: pytest.TempPathFactory, counts: list[tuple[int, int]], at_a_time: int
) -> None:
    counter = NgramCounter(tmp_path_factory.mktemp("counter"), memory=0)
    counter._limit = 16
    expected: Counter[int] = Counter()
    for begin in range(0, len(counts), at_a_time):
        part = np.array(counts[begin : begin + at_a_time], np.uint64).reshape(-1, 2)
        counter.add(part[:, 0], part[:, 1], 1)
    for key, count in counts:
        expected[key] += count
    for _ in range(2):  # it can be gone through again
        blocks = list(counter.merged())
        merged = np.concatenate(blocks) if blocks else np.zeros(0, [("key", "u8"), ("raw", "u8"), ("adjusted", "u8")])
        assert merged["key"].tolist() == sorted(expected)
        assert merged["raw"].tolist() == [expected[key] for key in sorted(expected)]
        assert merged["adjusted"].sum() == len(counts)


def test_windows_end_at_every_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_stt.lm_count._TOKENS_A_CHUNK", 2)  # far shorter than a sentence
    path = tmp_path / "text"
    path.write_text("a b a\n\nb\n")
    corpus = store_corpus([path], tmp_path, normalise=False)
    assert (list(corpus.words), corpus.counts.tolist(), corpus.sentences) == (["a", "b"], [2, 2], 2)
    ids = np.array([2, 3, 4], np.uint32)  # </s>, a, b
    keys = np.concatenate(list(window_keys(corpus, ids, 3, 4))).tolist()
    assert [f"{key:03x}" for key in keys] == ["113", "134", "343", "432", "114", "142"]


def test_entropy_pruning_removes_what_matters_least(text: Path) -> None:
    """The loss computed in closed form is the rise of perplexity in the context, from its definition."""
    trainer_model: list[object] = []
    losses: dict[int, np.ndarray] = {}
    original = lm_build._Trainer._losses

    def spy(self: lm_build._Trainer, model: list[lm_build._Estimates], order: int) -> np.ndarray:
        losses[order] = original(self, model, order)
        trainer_model[:] = [self, model]
        return losses[order]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_build._Trainer, "_losses", spy)
        pruned = build([text], config(order=2, prune_entropy=1e-4, min_count=20))
    whole = build([text], config(order=2, min_count=20))
    trainer, model = trainer_model
    words = range(len(whole.vocabulary))
    bigrams = whole.ngrams(2)
    for row in range(0, len(bigrams.words), 37):
        context, word = bigrams.words[row].tolist()
        p = np.exp([whole.score((context,), w)[0] for w in words])
        q = np.exp([whole.score((), w)[0] for w in words])
        seen = {w for c, w in bigrams.words.tolist() if c == context} - {word}
        rest = [w for w in words if w not in seen and w != whole.start_id]
        without = p.copy()
        without[rest] = q[rest] * (1 - p[list(seen)].sum()) / q[rest].sum()
        others = [w for w in words if w != whole.start_id]
        divergence = (p * (np.log(p) - np.log(without)))[others].sum()
        (place,) = np.flatnonzero(model[1].contexts.keys == context)
        history = model[1].contexts.raw[place] / trainer.tokens
        assert losses[2][row] == pytest.approx(math.expm1(history * divergence), rel=1e-3, abs=1e-9)
    assert pruned.counts[1] == (losses[2] >= 1e-4).sum()
    assert 0 < pruned.counts[1] < whole.counts[1]


def test_pruning_to_a_size(text: Path, tmp_path: Path) -> None:
    test = [sentence.split() for sentence in made_up_sentences(2, 200)]
    sizes, perplexities = [], []
    for size in (28_000, 32_000, 36_000, 10**9):
        build([text], config(size=size)).save(tmp_path / "x.lm")
        sizes.append((tmp_path / "x.lm").stat().st_size)
        assert sizes[-1] <= size
        perplexities.append(measure_perplexity(LanguageModel.load(tmp_path / "x.lm"), test).excluding_unknown)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert perplexities[0] > perplexities[1] > perplexities[3]
    build([text], config()).save(tmp_path / "y.lm")
    assert sizes[3] == (tmp_path / "y.lm").stat().st_size
    with pytest.raises(UsageError, match="cannot hold 428 words"):
        build([text], config(size=5000))


def test_kenlm_scores_what_we_train_alike(text: Path, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed (pip install kenlm, needs a compiler)")
    path = tmp_path / "x.arpa"
    for kind in ({"order": 2}, {"order": 3, "prune_entropy": 1e-5}, {"order": 5, "prune_counts": (0, 0, 1)}):
        model = build([text], config(**kind))
        lm_arpa.write(model, path)
        other = kenlm.Model(str(path))
        model.save(tmp_path / "x.lm")
        compact = LanguageModel.load(tmp_path / "x.lm")
        lm_arpa.write(compact, path)
        other_compact = kenlm.Model(str(path))
        for sentence in made_up_sentences(3, 200):
            for ours, theirs in ((model, other), (compact, other_compact)):
                expected = [score * LN10 for score, _, _ in theirs.full_scores(sentence)]
                assert ours.score_sentence(sentence.split()) == pytest.approx(expected, abs=1e-4)


def test_nltk_agrees_on_the_perplexity_of_a_plain_model(tmp_path: Path) -> None:
    """nltk.lm has no modified Kneser-Ney; its maximum-likelihood model checks counts, windows and perplexity."""
    nltk = pytest.importorskip("nltk.lm", reason="nltk is not installed (pip install nltk)")
    path = tmp_path / "text"
    sentences = made_up_sentences(1, 300)
    path.write_text("\n".join(sentences))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_build, "discounts_from", lambda counts: (0.0, 0.0, 0.0))
        model = build([path], config(order=2))
    words = [sentence.split() for sentence in sentences]
    padded = [["<s>", *sentence, "</s>"] for sentence in words]
    other = nltk.MLE(2)
    other.fit([list(itertools.pairwise(s)) + [(w,) for w in s] for s in padded], sorted({w for s in padded for w in s}))
    expected = other.perplexity([pair for s in padded for pair in itertools.pairwise(s)])
    assert measure_perplexity(model, words).including_unknown == pytest.approx(expected, rel=1e-4)


# Texts, vocabularies, settings


def test_texts_are_normalised(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("Mr. O’Neil — here!\n\n  \nHERE\n".encode()))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "Here, TOO", "speaker": "x"}) + "\n")
    (tmp_path / "c.csv").write_text('wav_filename,transcript\nnowhere.wav,"Here, TOO"\n')
    files = [tmp_path / "a.txt.gz", tmp_path / "b.jsonl"]
    assert [list(read_sentences(f)) for f in files] == [[["mister", "o'neil", "here"], ["here"]], [["here", "too"]]]
    assert list(read_sentences(tmp_path / "c.csv")) == [["here", "too"]]
    assert list(read_sentences(tmp_path / "c.csv", normalise=False)) == [["Here,", "TOO"]]
    assert list(read_sentences(files[0], normalise=False))[1] == ["HERE"]
    model = build(files, BuildConfig(order=2))
    assert list(model.vocabulary) == ["<unk>", "<s>", "</s>", "here", "mister", "o'neil", "too"]


def test_vocabularies(text: Path) -> None:
    counts = Counter(itertools.chain.from_iterable(map(str.split, made_up_sentences(1, 2000))))
    top = build([text], config(order=2, vocabulary_size=10))
    assert set(top.vocabulary[3:]) == {word for word, _ in counts.most_common(10)}
    assert table(top, 2)["w1 <unk>"]
    frequent = build([text], config(order=1, min_count=50))
    assert set(frequent.vocabulary[3:]) == {word for word, count in counts.items() if count >= 50}
    given_words = build([text], config(order=2, vocabulary=("w1", "never", "w2", "w1", "<s>")))
    assert list(given_words.vocabulary) == ["<unk>", "<s>", "</s>", "w1", "never", "w2"]
    assert table(given_words, 1)["never"][0] < table(given_words, 1)["w2"][0] < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order must be"),
        ({"prune_counts": (0, 2, 1)}, "must not fall"),
        ({"prune_counts": (1, 1)}, "words are never pruned"),
        ({"prune_counts": (0, 1, 1, 1)}, "at most 3"),
        ({"size": 10**6, "prune_entropy": 1e-8}, "not both"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**settings)


def test_order_too_long_for_the_vocabulary(text: Path) -> None:
    with pytest.raises(UsageError, match="order 8 takes a vocabulary of at most 256 words; this one has 428"):
        build([text], config(order=8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "have no words"),
        ("latin1.txt", b"fine\ncaf\xe9\n", r"latin1.txt:2: not UTF-8"),
        ("cut.txt.gz", gzip.compress(b"some text " * 99)[:-20], "cannot be read"),
        ("bad.jsonl", b'{"text": "fine"}\n{"words": 1}\n', "bad.jsonl:2: no JSON object with a 'text'"),
        ("bad2.jsonl", b"[1]\n", "bad2.jsonl:1: no JSON"),
        ("bad3.jsonl", b'{"text": 5}\n', "bad3.jsonl:1: no JSON object with a 'text' of letters"),
        ("bad4.jsonl", b"[" * 100_000, "bad4.jsonl:1: no JSON"),
        ("packed.csv.gz", gzip.compress(b"text\none\n"), "unpack it first"),
        ("bad.csv", b"one,two\nthree,four\n", "bad.csv has no column for the text"),
        ("bad2.csv", b"text,path\nfine,a\nthree\n", "bad2.csv:3: has 1 columns"),
        ("latin1.jsonl", b'{"text": "caf\xe9"}\n', r"latin1.jsonl:1: not UTF-8"),
        ("marks.txt", b"<s> a b </s>\n", "contain <s>"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        build([tmp_path / name], config())
    assert "\n" not in str(caught.value)


def test_missing_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere cannot be read"):
        build([tmp_path / "nowhere"], config())


# The command


def run(*arguments: object, fails: type[EdgeSttError] | None = None) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if fails:
        assert isinstance(result.exception, fails)
        assert "\n" not in str(result.exception)
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command(text: Path, tmp_path: Path) -> None:
    compact, arpa, back = (tmp_path / name for name in ("a.lm", "a.arpa.gz", "b.lm"))
    # Results on stdout, the rest on stderr: a build has no result but its file.
    assert run("build", text, "-o", compact, "--as-is", "--prune", "0,1,2", "--min-count", 2) == ""
    assert run("convert", compact, arpa) == ""
    assert run("convert", arpa, back) == ""
    assert "3-grams" in run("info", compact)
    assert run("info", arpa).split(": ")[1].split(";")[0] == run("info", back).split(": ")[1].split(";")[0]
    words = run("perplexity", compact, text, "--as-is")
    figures = json.loads(run("perplexity", back, text, "--as-is", "--json"))
    assert f"{figures['including_unknown']:.2f}" in words
    assert figures["words"] == 19951
    assert figures["unknown_words"] == figures["unknown_rate"] * 19951 > 0


def test_command_takes_a_lexicon_as_vocabulary(text: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("w1 W AH N\nw2\tT UW\n\n")
    run("build", text, "-o", tmp_path / "x.lm", "--as-is", "--vocabulary", tmp_path / "words", "--size", "18k")
    assert LanguageModel.load(tmp_path / "x.lm").vocabulary[3:] == ["w1", "w2"]


def test_command_refuses(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.lm"
    assert "0,0,1" in run("build", text, "-o", out, "--prune", "a,b", fails=UsageError)
    assert "not a size" in run("build", text, "-o", out, "--size", "big", fails=UsageError)
    assert "no folder" in run("build", text, "-o", tmp_path / "no" / "x.lm", fails=UsageError)
    assert "not both" in run("build", text, "-o", out, "--vocabulary", text, "--min-count", 3, fails=UsageError)
    assert "cannot be read" in run("build", text, "-o", out, "--vocabulary", tmp_path, fails=DataError)
    for command in (["build", text, "-o", out], ["perplexity", text, text]):
        assert "did you mean 'english'" in run(*command, "--language", "englisch", fails=UsageError)
        (tmp_path / "bad.toml").write_text("name =")
        assert "cannot read the language" in run(*command, "--language", tmp_path / "bad.toml", fails=DataError)
    assert "no language model" in run("info", tmp_path / "none", fails=EdgeSttError)
    assert "no words" in run("perplexity", _built(text, out), "/dev/null", fails=DataError)


def _built(text: Path, path: Path) -> Path:
    build([text], config(order=1)).save(path)
    return path


def test_an_existing_file_is_replaced_only_when_asked(text: Path, tmp_path: Path) -> None:
    model, precious = tmp_path / "words.lm", tmp_path / "precious.lm"
    run("build", text, "--as-is", "-o", model)
    precious.write_text("mine")
    for command in (["build", text, "--as-is", "-o", precious], ["convert", model, precious]):
        assert run(*command, fails=DataError) == f"{precious} exists; choose another name or overwrite it (--overwrite)"
        assert precious.read_text() == "mine"
    for command in (["build", text, "--as-is", "-o", precious], ["convert", model, precious]):
        precious.write_text("mine")
        run(*command, "--overwrite")
        assert precious.read_bytes() == model.read_bytes()
    assert "is a folder" in run("build", text, "--as-is", "-o", tmp_path, "--overwrite", fails=UsageError)


def test_sizes() -> None:
    assert [parse_size(s) for s in ("6M", "1.5 MB", "500k", "12", "2g")] == [6e6, 1.5e6, 5e5, 12, 2e9]


def test_a_text_is_not_replaced_by_the_model_made_of_it(text: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text.read_text())
    result = CliRunner().invoke(app, ["build", str(own), "-o", str(own)])
    assert isinstance(result.exception, UsageError)
    assert own.read_text() == text.read_text()
