"""Decoding without a lexicon, with a language model of letters."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_stt.beam import BeamConfig, BeamDecoder
from edge_stt.decoders import LETTERS_FILE, DecodingConfig, build_decoder, choose
from edge_stt.decoding import LogProbs
from edge_stt.errors import DecodingError
from edge_stt.letter_lm import SPACE, spell
from edge_stt.lm import LanguageModel, Ngrams
from edge_stt.lm_build import BuildConfig, build
from edge_stt.package import INFO_FILE, ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL
from edge_stt.units import BLANK, ENGLISH_CHARACTERS, SEPARATOR

from .conftest import ROOT
from .posteriors import SENTENCES, clear_log_probs, edit_distance, peaky_log_probs, random_log_probs
from .test_beam import LEXICON, SMALL, SOUNDS, UNPRUNED

WEIGHT, BONUS = 0.7, 0.4


def edge_stt(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def small_letters() -> LanguageModel:
    """A bigram model of two letters and the space."""
    vocabulary = ["<unk>", "<s>", "</s>", SPACE, "a", "b"]
    unigrams = np.log(np.array([0.01, 1e-9, 0.1, 0.3, 0.4, 0.19]))
    bigrams = np.array([[1, 4], [3, 5], [4, 4], [4, 3], [5, 4]], np.uint32)
    return LanguageModel.from_ngrams(
        vocabulary,
        [
            Ngrams(np.arange(6, dtype=np.uint32)[:, None], unigrams.astype(np.float32), np.full(6, -0.4, np.float32)),
            Ngrams(bigrams, np.log(np.array([0.6, 0.5, 0.2, 0.3, 0.8])).astype(np.float32), np.zeros(5, np.float32)),
        ],
    )


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the letters of some sentences."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    done = edge_stt("lm", "build", "--letters", "--order", 6, folder / "text.txt", "-o", folder / "x.lm")
    assert done.returncode == 0, done.stderr
    return folder / "x.lm"


@pytest.mark.parametrize("seed", range(5))
def test_the_search_is_exact(seed: int) -> None:
    """Every text has the sum of its alignments times what the model says of its letters."""
    log_probs = random_log_probs(seed, 5, len(SMALL))
    lm = small_letters()
    expected: dict[str, float] = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(len(SMALL)), repeat=len(log_probs)):
        merged = [unit for unit, _ in itertools.groupby(path) if unit != BLANK]
        words = "".join(SMALL.symbols[unit] for unit in merged).split()
        written = spell(words)
        if words and merged[-1] == SEPARATOR:  # the word was ended by one, which the model of letters scores too
            written.append(SPACE)
        state, total = lm.start_state(), sum(float(log_probs[t, unit]) for t, unit in enumerate(path))
        for letter in written:
            score, state = lm.score(state, lm.word_id(letter))
            total += WEIGHT * score + BONUS
        text = " ".join(words)
        expected[text] = float(np.logaddexp(expected[text], total))
    config = replace(UNPRUNED, letter_weight=WEIGHT, letter_bonus=BONUS)
    found = BeamDecoder(SMALL, config, letters=lm).decode(log_probs, 10_000)
    assert {h.text for h in found} == set(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=1e-5)


def spoken(text: str, seed: int) -> LogProbs:
    return peaky_log_probs(seed, ENGLISH_CHARACTERS.encode(text.split()), len(ENGLISH_CHARACTERS), errors=0.35)


def test_it_mends_spelling_and_chunks_do_not_matter(letters: Path) -> None:
    lm = LanguageModel.load(letters)
    plain, helped = BeamDecoder(ENGLISH_CHARACTERS), BeamDecoder(ENGLISH_CHARACTERS, letters=lm)
    errors = {"plain": 0, "helped": 0}
    for seed, text in enumerate(SENTENCES):
        log_probs = spoken(text, seed)
        errors["plain"] += edit_distance(text, plain.decode(log_probs)[0].text)
        whole = helped.decode(log_probs)[0]
        errors["helped"] += edit_distance(text, whole.text)
        state = helped.start()
        for start in range(0, len(log_probs), 7):
            state = helped.advance(state, log_probs[start : start + 7])
        assert helped.finish(state)[0] == whole
    assert errors["helped"] < 0.5 * errors["plain"]


def test_any_word_can_be_written(letters: Path) -> None:
    log_probs = clear_log_probs(ENGLISH_CHARACTERS.encode(["turn", "the", "zyxqov", "off"]), 29)
    assert BeamDecoder(ENGLISH_CHARACTERS, letters=LanguageModel.load(letters)).decode(log_probs)[0].text == (
        "turn the zyxqov off"
    )


def test_what_does_not_fit_is_refused(letters: Path, tmp_path: Path) -> None:
    lm = LanguageModel.load(letters)
    with pytest.raises(DecodingError, match="characters"):
        BeamDecoder(SOUNDS, letters=lm)
    with pytest.raises(DecodingError, match="lexicon"):
        BeamDecoder(SOUNDS, lexicon=LEXICON, letters=lm)
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    words = build([tmp_path / "text.txt"], BuildConfig(order=2))
    with pytest.raises(DecodingError, match="--letters"):
        BeamDecoder(ENGLISH_CHARACTERS, letters=words)
    with pytest.raises(DecodingError, match="letter_weight"):
        BeamConfig(letter_weight=-1.0)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["decoder", "attach", DEFAULT_MODEL, "-o", "out", "--lm", "LETTERS"], "is a language model of letters"),
        (["decoder", "attach", DEFAULT_MODEL, "-o", "out", "--letters", "WORDS"], "is no language model of letters"),
        (["train", "lexicon", "-o", "out", "--lm", "LETTERS"], "is a language model of letters"),
    ],
)
def test_letters_are_not_taken_for_words(letters: Path, tmp_path: Path, command: list[object], text: str) -> None:
    models = {"LETTERS": letters, "WORDS": DEFAULT_MODEL / "words.lm", "out": tmp_path / "out"}
    done = edge_stt(*(models.get(str(word), word) for word in command))
    assert done.returncode == 1
    assert done.stderr.startswith(f"edge-stt: {models[str(command[-1])]} {text}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_perplexity_of_letters_is_by_letter(letters: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("turn the light on\n", encoding="utf-8")
    done = edge_stt("lm", "perplexity", letters, tmp_path / "text.txt", "--json")
    figures = json.loads(done.stdout)
    assert (figures["words"], figures["unknown_words"]) == (len("turn the light on"), 0)


def test_a_package_carries_it(letters: Path, tmp_path: Path) -> None:
    out, tuned = tmp_path / "with-letters", tmp_path / "tuned"
    done = edge_stt("decoder", "attach", DEFAULT_MODEL, "--letters", letters, "-o", out)
    assert done.returncode == 0, done.stderr
    package, shipped = ModelPackage.load(out), ModelPackage.load(DEFAULT_MODEL)
    assert DecodingConfig.of(package) == DecodingConfig.of(shipped)  # its decoder stays
    decoder = build_decoder(package, replace(choose(package, "beam"), prior_weight=0.0))
    assert isinstance(decoder, BeamDecoder)
    assert decoder.search.letters is not None

    pytest.importorskip("jiwer", reason="needs the bench extra")
    item = json.loads((ROOT / "tests/data/clips.jsonl").read_text(encoding="utf-8").splitlines()[0])
    item["audio_filepath"] = str(ROOT / "tests/data" / item["audio_filepath"])
    (tmp_path / "dev.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    done = edge_stt("decoder", "tune", out, tmp_path / "dev.jsonl", "--letters", "-o", tuned)
    assert done.returncode == 0, done.stderr
    assert "letter_weight" in done.stderr
    assert DecodingConfig.of(ModelPackage.load(tuned)).decoder == DecodingConfig.of(package).decoder
    files = {name: shipped.read(name) for name in shipped.files if name not in (LETTERS_FILE, INFO_FILE)}
    without = write_package(tmp_path / "without", shipped.info, files)
    done = edge_stt("decoder", "tune", without.path, tmp_path / "dev.jsonl", "--letters", "-o", tmp_path / "x")
    assert done.returncode == 2
    assert "decoder attach --letters" in done.stderr
