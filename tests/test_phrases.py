"""Phrases decoded: the search against enumeration, pauses, chunks, what is rejected, and the fit of the score."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest

import edge_stt
from edge_stt.acceptor import Speller, compile_grammar
from edge_stt.audio import read_audio
from edge_stt.batch import LoadOptions
from edge_stt.decoders import DecodingConfig, build_decoder, choose
from edge_stt.decoding import LogProbs
from edge_stt.errors import DataError, DecodingError, UsageError
from edge_stt.grammar import Grammar
from edge_stt.hotwords import HotWords
from edge_stt.lexicon import Lexicon
from edge_stt.package import ModelInfo, ModelPackage, write_package
from edge_stt.phrase_calibration import Example, best_threshold, fit
from edge_stt.phrase_search import BestPath, PhraseSearch
from edge_stt.phrases import Match, PhraseConfig, PhraseDecoder
from edge_stt.recogniser import DEFAULT_MODEL, Transcriber
from edge_stt.streaming import Final, Partial, StreamingTranscriber
from edge_stt.tuning import attach
from edge_stt.units import ARPABET, BLANK, SEPARATOR, UnitSet
from edge_stt.units import ENGLISH_CHARACTERS as CHARACTERS

from .conftest import DEMO, ROOT
from .posteriors import clear_log_probs, peaky_log_probs, random_log_probs

SOUNDS = UnitSet("sounds", "phonemes", ("_", "|", "a", "b"))
WORDS = Lexicon.build([("ab", "ab"), ("ab", "ba"), ("bee", "b"), ("be", "b"), ("abba", "abba"), ("aa", "aa")], SOUNDS)
PENALTY = 1.5

TINY = [
    "bee",
    "ab [bee]",
    "(aa|ab) be",
    "abba | ab ab",
    "{x: aa} [{y: bee}] | ab | bee [aa]",
]


def best_by_enumeration(grammar: Grammar, log_probs: LogProbs) -> tuple[float, set[str]]:
    """The best score of all rows of labels that stand for a phrase, and the phrases that have it.

    Label 4 is a blank in a separator's place.
    """
    said: dict[tuple[int, ...], set[str]] = {}
    for count in range(1, 4):
        for words in product(["ab", "bee", "be", "abba", "aa"], repeat=count):
            if grammar.accepts(" ".join(words)):
                for ways in product(
                    *([[SOUNDS.index[s] for s in way] for way in WORDS.pronunciations(w)] for w in words)
                ):
                    units = [unit for way in ways for unit in (*way, SEPARATOR)][:-1]
                    said.setdefault(tuple(units), set()).add(" ".join(words))
    scores = np.concatenate([log_probs, log_probs[:, [BLANK]] - PENALTY], axis=1)
    best, phrases = -math.inf, set()
    for labels in product(range(5), repeat=len(log_probs)):
        merged = [unit for unit, _ in groupby(SEPARATOR if label == 4 else label for label in labels)]
        units = [unit for unit in merged if unit != BLANK]
        units = [unit for i, unit in enumerate(units) if not (unit == SEPARATOR and units[i - 1 : i] == [SEPARATOR])]
        while units and units[0] == SEPARATOR:
            units.pop(0)
        while units and units[-1] == SEPARATOR:
            units.pop()
        if tuple(units) in said:
            score = float(sum(scores[t, label] for t, label in enumerate(labels)))
            if score > best + 1e-4:
                best, phrases = score, set()
            if score > best - 1e-4:
                phrases |= said[tuple(units)]
    return best, phrases


@pytest.mark.parametrize("text", TINY)
def test_the_search_finds_what_enumeration_finds(text: str) -> None:
    grammar = Grammar.from_text(text)
    search = PhraseSearch(compile_grammar(grammar, Speller(SOUNDS, WORDS)), PENALTY)
    for seed in range(4):
        for frames in (1, 3, 6):
            log_probs = random_log_probs(seed, frames, len(SOUNDS))
            score, phrases = best_by_enumeration(grammar, log_probs)
            path = search.best(search.advance(search.start(), log_probs))
            if not phrases:
                assert path is None
                continue
            assert path is not None
            assert path.score == pytest.approx(score, abs=1e-3)
            assert " ".join(word.label[0] for word in path.words) in phrases
            assert _score_of(path, log_probs) == pytest.approx(path.score, abs=1e-3)


def _score_of(path: BestPath, log_probs: LogProbs) -> float:
    """The score once more, from the times of the units; the rest is blank or, between words, a separator."""
    owner = np.full(len(log_probs), BLANK)
    for token in path.tokens:
        assert (owner[token.start : token.end] == BLANK).all()
        owner[token.start : token.end] = token.unit
    total = float(log_probs[np.arange(len(log_probs)), owner].sum())
    free = np.maximum(log_probs[:, SEPARATOR], log_probs[:, BLANK] - PENALTY) - log_probs[:, BLANK]
    edges = [0, *(t for w in path.words for t in (w.tokens[0].start, w.tokens[-1].end)), len(log_probs)]
    for i, (start, end) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        gains = np.maximum(free[start:end], 0.0)
        total += float(gains.sum())
        if 0 < i < len(edges) // 2 - 1 and not (free[start:end] > 0).any():
            total += float(free[start:end].max())  # one separator there must be
    return total


def characters(text: str, config: PhraseConfig | None = None) -> PhraseDecoder:
    return PhraseDecoder(Grammar.from_text(text), Speller(CHARACTERS), config)


def said(*texts: str, pause: int = 30) -> LogProbs:
    """Characters loud and clear, frames of blank after each text."""
    parts = [clear_log_probs(CHARACTERS.encode(text.split()), len(CHARACTERS)) for text in texts]
    silence = clear_log_probs([], len(CHARACTERS))[:1].repeat(pause, axis=0)
    return np.concatenate([piece for part in parts for piece in (part, silence)])


def decode(decoder: PhraseDecoder, log_probs: LogProbs) -> edge_stt.decoding.Hypothesis:
    return decoder.finish(decoder.advance(decoder.start(), log_probs))[0]


HOME = (
    "turn the <room> light {state: on|off}\nset [the] light to <level> percent\nroom = kitchen | hall\nlevel = 0..100"
)


def test_a_phrase_comes_out_with_its_slots() -> None:
    decoder = characters(HOME)
    hypothesis = decode(decoder, said("turn the hall light off"))
    assert hypothesis.text == "turn the hall light off"
    (phrase,) = hypothesis.phrases
    assert phrase.slots == {"room": "hall", "state": "off"}
    assert phrase.accepted
    assert phrase.score > 0.95
    assert decode(decoder, said("set light to forty five percent")).phrases[0].slots == {"level": 45}
    turn = hypothesis.words[0]
    assert (turn.start, turn.end) == (3, 14)  # as `clear_log_probs` has it
    assert [CHARACTERS.symbols[token.unit] for token in hypothesis.tokens] == list("turnthehalllightoff")


def test_what_is_no_phrase_is_rejected() -> None:
    decoder = characters(HOME)
    for text in ("turn the hall light of the world off", "set the table", "turn the light", "hall", "q"):
        hypothesis = decode(decoder, said(text))
        assert hypothesis.text == ""
        assert not hypothesis.phrases[0].accepted
    assert decode(decoder, said("")).phrases == ()
    assert decode(decoder, np.empty((0, len(CHARACTERS)), np.float32)).phrases == ()


def test_pauses_divide_utterances() -> None:
    decoder = characters(HOME)
    log_probs = said("turn the hall light on", "well i never", "set the light to a hundred percent")
    hypothesis = decode(decoder, log_probs)
    assert hypothesis.text == "turn the hall light on set the light to a hundred percent"
    assert [phrase.accepted for phrase in hypothesis.phrases] == [True, False, True]
    assert hypothesis.phrases[2].slots == {"level": 100}
    ends = [phrase.end for phrase in hypothesis.phrases]
    assert ends == sorted(ends)
    assert hypothesis.words[-1].end < len(log_probs)


def test_chunks_of_any_size_give_the_same() -> None:
    decoder = characters(HOME)
    rng = random.Random(4)
    for seed in range(3):
        text = ["turn the kitchen light on", "something else", "set light to seven percent"]
        units = [peaky_log_probs(seed, CHARACTERS.encode(t.split()), len(CHARACTERS)) for t in text]
        log_probs = np.concatenate([part for unit in units for part in (unit, said("", pause=25))])
        whole = decode(decoder, log_probs)
        assert whole.text
        for _ in range(3):
            state, at = decoder.start(), 0
            while at < len(log_probs):
                size = rng.choice([0, 1, 2, 5, 30])
                before = decoder.best(state)
                following = decoder.advance(state, log_probs[at : at + size])
                assert decoder.best(state) == before  # states do not change
                state, at = following, at + size
            assert decoder.finish(state) == [whole]


def test_partials_are_the_words_so_far() -> None:
    decoder = characters(HOME)
    log_probs = said("turn the hall light off")
    seen, state = [], decoder.start()
    for row in log_probs:
        state = decoder.advance(state, row[None])
        seen.append(decoder.best(state).text)
    steps = [text for text, _ in groupby(seen)]
    assert steps == ["", "turn", "turn the", "turn the hall", "turn the hall light", "turn the hall light off"]
    assert decoder.stable_words(state) == 5
    state = decoder.advance(decoder.start(), said("everything but a phrase", pause=1))
    assert decoder.best(state).text == ""


def test_memory_does_not_grow_in_silence() -> None:
    decoder = characters(HOME)
    state = decoder.start()
    for _ in range(50):
        state = decoder.advance(state, said("", pause=100))
    assert state.trellis.frames < 60
    endless = np.concatenate([said("hall", pause=0)] * 100)
    state = decoder.advance(decoder.start(), endless)
    assert state.trellis.frames <= 24 * 25


def test_bad_input_is_refused() -> None:
    decoder = characters("go")
    with pytest.raises(DecodingError, match=r"\[frames, 29\]"):
        decoder.advance(decoder.start(), np.zeros((3, 7), np.float32))
    with pytest.raises(DecodingError, match="NaN"):
        decoder.advance(decoder.start(), np.full((3, len(CHARACTERS)), np.nan, np.float32))
    with pytest.raises(DecodingError, match="threshold of phrases must lie between 0 and 1"):
        PhraseConfig(threshold=1.5)
    impossible = said("go")
    impossible[impossible < -5] = -np.inf
    assert decode(decoder, impossible).text == "go"


@pytest.mark.parametrize(
    ("speller", "text", "message"),
    [
        (
            Speller(CHARACTERS),
            "go\nto  привет",
            r"f:2:5: 'п' in the word 'привет' is not a unit of 'english-characters'",
        ),
        (Speller(CHARACTERS), "x" * 97, r"f:1:1: the word 'x+' is too long"),
        (Speller(SOUNDS, WORDS), "bee [no]", r"f:1:6: the word 'no' is not in the lexicon, and nothing here"),
    ],
)
def test_words_that_cannot_be_spelled_are_named_with_their_place(speller: Speller, text: str, message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        compile_grammar(Grammar.from_text(text, "f"), speller)


def test_thousands_of_phrases_stay_small() -> None:
    text = "(turn|switch) (on|off) the <room> (light|lights|fan) [in <n> (minutes|seconds)]\n"
    text += "room = kitchen | living room | bedroom | hall | attic | garage | study\nn = 1..600"
    grammar = Grammar.from_text(text)
    assert grammar.phrases > 100_000
    assert compile_grammar(grammar, Speller(CHARACTERS)).nodes < 2_000


def test_the_phrases_of_the_page_are_understood() -> None:
    page = (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```phrases\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    decoder = characters(text)
    slots = {
        "turn the lights in the living room off": {"room": "living room", "state": "off"},
        "turn the light on": {"state": "on"},
        "set bedroom lights to thirty five percent": {"room": "bedroom", "level": 35},
        "move from kitchen to bedroom": {"here": "kitchen", "there": "bedroom"},
        "what's the time": {},
    }
    for sentence, expected in slots.items():
        (phrase,) = decode(decoder, said(sentence)).phrases
        assert (phrase.text, phrase.accepted, phrase.slots) == (sentence, True, expected)
    assert not decode(decoder, said("set bedroom lights to thirty six percent")).phrases[0].accepted


# The score


def test_the_fit_finds_the_probability() -> None:
    """Examples drawn by a known logistic function give its weights back."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20_000):
        overall, worst = rng.uniform(0, 3), rng.uniform(0, 20)
        probability = 1 / (1 + math.exp(-(5.0 - 2.0 * overall - 0.2 * worst)))
        kind = "phrase" if rng.random() < probability else str(rng.choice(["near", "other"]))
        found.append(Example(Match(BestPath(0.0, (), ()), overall, worst), kind))
    config = fit(found, PhraseConfig())
    phrases = sum(example.kind == "phrase" for example in found) / len(found)
    assert config.overall == pytest.approx(2.0, abs=0.15)
    assert config.worst == pytest.approx(0.2, abs=0.015)
    assert config.offset == pytest.approx(5.0 - math.log(phrases / (1 - phrases)), abs=0.3)  # both kinds count alike
    assert config.threshold == pytest.approx(0.5, abs=0.12)


def test_evidence_of_no_use_gets_no_weight() -> None:
    path = BestPath(0.0, (), ())
    found = [Example(Match(path, 0.1 * i, 10.0 - 0.1 * i), "phrase" if i < 50 else "other") for i in range(100)]
    config = fit(found, PhraseConfig())
    assert config.overall > 0
    assert config.worst == 0
    with pytest.raises(DataError, match="no clip was recognised"):
        fit([example for example in found if example.kind == "other"], PhraseConfig())
    with pytest.raises(DataError, match="other speech too"):
        fit([example for example in found if example.kind == "phrase"], PhraseConfig())


def test_the_threshold_lies_between_the_kinds() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.9])
    assert best_threshold(scores, np.array([False, False, False, True, True]), np.ones(5)) == pytest.approx(0.55)
    assert best_threshold(scores, np.array([False, True, False, True, True]), np.ones(5)) > 0.1


# With a package


@pytest.fixture(scope="module")
def phrase_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phrases") / "demo.txt"
    path.write_text(
        "turn the light {state: on|off}\n"
        "the <place> court was the sheriff's who sat there surrounded by the bishop and the magnates of the <owner>\n"
        "the <place> court was the sheriff's\n"
        "place = county | town | tennis\nowner = county | country\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def transcriber(phrase_file: Path) -> Iterator[Transcriber]:
    if not DEFAULT_MODEL.is_dir():
        pytest.skip("this checkout carries no model")
    yield edge_stt.load_model(phrases=phrase_file)


def test_real_speech_is_recognised_with_its_slots(transcriber: Transcriber) -> None:
    (segment,) = transcriber.transcribe(DEMO).segments
    assert segment.slots == {"place": "county", "owner": "county"}
    assert segment.score is not None
    assert segment.score > 0.5
    assert segment.words[1].text == "county"
    assert 0.0 < segment.words[0].start < segment.words[-1].end < 6.3


def test_real_speech_that_is_no_phrase_is_rejected(transcriber: Transcriber) -> None:
    others = sorted((ROOT / "tests" / "data").glob("*.opus"))
    assert others
    for path in others:
        assert transcriber.transcribe(path).text == ""
    half = transcriber.transcribe(read_audio(DEMO)[:45_000])
    assert "who" not in half.text


def test_a_stream_gives_partials_and_the_slots(transcriber: Transcriber) -> None:
    stream = StreamingTranscriber(transcriber)
    samples = np.concatenate([read_audio(DEMO), np.zeros(32_000, np.float32)])
    events = [event for start in range(0, len(samples), 4000) for event in stream.accept_audio(samples[start:][:4000])]
    events += stream.finish()
    (final,) = [event for event in events if isinstance(event, Final)]
    assert final.slots == {"place": "county", "owner": "county"}
    assert final.score is not None
    assert final.text.startswith("the county court was the sheriff's who")
    partials = [event.text for event in events if isinstance(event, Partial)]
    assert partials
    assert all(final.text.startswith(text) for text in partials[-3:])


def test_the_command_writes_slots(phrase_file: Path) -> None:
    if not DEFAULT_MODEL.is_dir():
        pytest.skip("this checkout carries no model")
    command = [sys.executable, "-m", "edge_stt.cli", "transcribe", "--json", "--phrases", str(phrase_file), str(DEMO)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (segment,) = json.loads(done.stdout)["segments"]
    assert segment["slots"] == {"place": "county", "owner": "county"}


def test_options_that_cannot_be_are_refused(phrase_file: Path) -> None:
    if not DEFAULT_MODEL.is_dir():
        pytest.skip("this checkout carries no model")
    with pytest.raises(UsageError, match="--phrases has a decoder of its own; leave out --beam-width"):
        LoadOptions(phrases=str(phrase_file), beam_width=3).load()
    with pytest.raises(UsageError, match="--lm-weight weighs a language model"):
        LoadOptions(phrases=str(phrase_file), lm_weight=1.0).load()
    with pytest.raises(UsageError, match="the decoder phrases is not chosen by name"):
        LoadOptions(decoder="phrases").load()
    bad = phrase_file.with_name("bad.txt")
    bad.write_text("go\nturn (on\n", encoding="utf-8")
    with pytest.raises(DecodingError, match=r"bad\.txt:2:6: '\(' is never closed: '\)' is missing"):
        LoadOptions(phrases=str(bad)).load()


def test_ordinary_transcripts_have_no_slots() -> None:
    if not DEFAULT_MODEL.is_dir():
        pytest.skip("this checkout carries no model")
    segments = edge_stt.load_model(decoder="greedy").transcribe(DEMO).to_dict()["segments"]
    assert set(segments[0]) == {"start", "end", "text", "words"}


def test_settings_survive_the_package(tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    package = write_package(tmp_path / "plain", info, package_files)
    grammar = Grammar.from_text("go")
    config = replace(DecodingConfig.of(package), phrases=PhraseConfig(threshold=0.7, overall=1.25))
    kept = attach(package, tmp_path / "kept", decoding=config)
    chosen = choose(ModelPackage.load(kept.path), "phrases")
    assert chosen.phrases == config.phrases
    assert chosen.head == "characters"  # nothing here pronounces words
    decoder = build_decoder(kept, chosen, phrases=grammar)
    assert isinstance(decoder, PhraseDecoder)
    assert decode(decoder, said("go")).text == "go"
    with pytest.raises(DecodingError, match="hot words"):
        build_decoder(kept, chosen, HotWords([("go", 2.0)]), grammar)
    with pytest.raises(DecodingError, match="for the decoder 'phrases'"):
        build_decoder(kept, choose(kept, "greedy"), phrases=grammar)
    with pytest.raises(DecodingError, match="decoder of their own"):
        edge_stt.load_model(kept.path, decoder="beam", phrases=grammar)


def test_words_outside_the_lexicon_are_pronounced() -> None:
    if not DEFAULT_MODEL.is_dir():
        pytest.skip("this checkout carries no model")
    package = ModelPackage.load(DEFAULT_MODEL)
    config = choose(package, "phrases")
    if package.info.heads[config.head].kind != "phonemes":
        pytest.skip("the model has no phonemes")
    decoder = build_decoder(package, config, phrases=Grammar.from_text("wake up frobnicator"))
    assert isinstance(decoder, PhraseDecoder)
    phonemes = [ARPABET.symbols[unit] for unit in decoder.acceptor.unit]
    assert {"F", "R", "B", "K"} <= set(phonemes)
    with pytest.raises(DecodingError, match=r"phrases:1:4: the word 'ü' cannot be pronounced"):
        build_decoder(package, config, phrases=Grammar.from_text("go ü"))
