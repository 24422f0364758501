"""The beam search: exact where it can be checked by hand, the same for any chunking, bounded in time and memory."""

from __future__ import annotations

import gc
import itertools
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.beam import BeamConfig, BeamDecoder
from edge_stt.decoding import Hypothesis, LogProbs, greedy
from edge_stt.errors import DecodingError
from edge_stt.hotwords import HotWords
from edge_stt.lexicon import Lexicon
from edge_stt.lm import LanguageModel, Ngrams
from edge_stt.units import ARPABET, BLANK, ENGLISH_CHARACTERS, SEPARATOR, UnitSet

from .posteriors import SENTENCES, clear_log_probs, edit_distance, peaky_log_probs, random_log_probs

SMALL = UnitSet("small", "characters", ("<blank>", " ", "a", "b"))
SOUNDS = UnitSet("sounds", "phonemes", ("<blank>", "|", "A", "B"))
# Homophones (to, two), a word with two pronunciations (either), words that begin others.
WORDS = [("to", "A"), ("two", "A"), ("either", "AB"), ("either", "BA"), ("aba", "ABA"), ("be", "B")]
LEXICON = Lexicon.build(((word, tuple(sounds)) for word, sounds in WORDS), SOUNDS)
UNPRUNED = BeamConfig(
    beam_width=4096,
    beam_threshold=math.inf,
    token_top_k=99,
    token_min_log_prob=-math.inf,
    blank_skip_threshold=math.inf,
    recombine=False,
    lm_weight=0.7,
    word_insertion_bonus=0.4,
)


def small_lm() -> LanguageModel:
    """A bigram model over the words of WORDS (and "a", "b"), with made-up back-offs."""
    vocabulary = ["<unk>", "<s>", "</s>", "to", "two", "either", "aba", "be", "a", "b"]
    unigrams = np.log(np.array([0.02, 1e-9, 0.1, 0.3, 0.05, 0.1, 0.03, 0.2, 0.1, 0.1]))
    bigrams = np.array([[1, 4], [3, 7], [4, 5], [8, 9]], np.uint32)
    return LanguageModel.from_ngrams(
        vocabulary,
        [
            Ngrams(np.arange(10, dtype=np.uint32)[:, None], unigrams.astype(np.float32), np.full(10, -0.3, np.float32)),
            Ngrams(bigrams, np.log(np.array([0.5, 0.6, 0.4, 0.7])).astype(np.float32), np.zeros(4, np.float32)),
        ],
    )


def brute_force(log_probs: LogProbs, units: UnitSet) -> dict[tuple[tuple[int, ...], ...], float]:
    """Log-probability of every sequence of words (as units), summed over all alignments."""
    found: dict[tuple[tuple[int, ...], ...], float] = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(len(units)), repeat=len(log_probs)):
        merged = [unit for unit, _ in itertools.groupby(path) if unit != BLANK]
        words = [
            tuple(group) for separates, group in itertools.groupby(merged, lambda u: u == SEPARATOR) if not separates
        ]
        log_prob = sum(float(log_probs[t, unit]) for t, unit in enumerate(path))
        found[tuple(words)] = np.logaddexp(found[tuple(words)], log_prob)
    return dict(found)


def assert_same_scores(hypotheses: list[Hypothesis], expected: dict[str, float]) -> None:
    assert len({h.text for h in hypotheses}) == len(hypotheses)
    assert {h.text for h in hypotheses} == set(expected)
    for h in hypotheses:
        assert h.score == pytest.approx(expected[h.text], abs=1e-5)
    assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_open_vocabulary_is_exact(seed: int) -> None:
    log_probs = random_log_probs(seed, 5, 4)
    expected = {
        " ".join("".join(SMALL.symbols[u] for u in word) for word in words): score
        for words, score in brute_force(log_probs, SMALL).items()
    }
    assert_same_scores(BeamDecoder(SMALL, UNPRUNED).decode(log_probs, 10_000), expected)


@pytest.mark.parametrize("with_lm", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_lexicon_is_exact(seed: int, with_lm: bool) -> None:
    log_probs = random_log_probs(seed, 6, 4)
    lm = small_lm() if with_lm else None
    spoken = defaultdict(list)
    for word, sounds in WORDS:
        spoken[tuple(SOUNDS.index[s] for s in sounds)].append(word)
    expected: dict[str, float] = defaultdict(lambda: -math.inf)
    for sequence, score in brute_force(log_probs, SOUNDS).items():
        for words in itertools.product(*(spoken.get(sounds, []) for sounds in sequence)):
            total = score
            if lm is not None:
                total += 0.4 * len(words) + 0.7 * sum(lm.score_sentence(words)[:-1])
            text = " ".join(words)
            expected[text] = float(np.logaddexp(expected[text], total))
    decoder = BeamDecoder(SOUNDS, UNPRUNED, LEXICON, lm)
    assert_same_scores(decoder.decode(log_probs, 10_000), dict(expected))


def character_decoder(config: BeamConfig | None = None, hot_words: HotWords | None = None) -> BeamDecoder:
    """Open vocabulary with a lexicon and a model of the sentences' words."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    vocabulary = ["<unk>", "<s>", "</s>", *words]
    counts = np.array([1, 1e-6, 8, *(sum(s.split().count(w) for s in SENTENCES) for w in words)], np.float64)
    ids = {word: i for i, word in enumerate(vocabulary)}
    pairs = sorted({(ids[a], ids[b]) for s in SENTENCES for a, b in itertools.pairwise(["<s>", *s.split()])})
    size = len(vocabulary)
    lm = LanguageModel.from_ngrams(
        vocabulary,
        [
            Ngrams(
                np.arange(size, dtype=np.uint32)[:, None],
                np.log(counts / counts.sum()).astype(np.float32),
                np.full(size, -1.0, np.float32),
            ),
            Ngrams(np.array(pairs, np.uint32), np.full(len(pairs), -1.5, np.float32), np.zeros(len(pairs), np.float32)),
        ],
    )
    return BeamDecoder(ENGLISH_CHARACTERS, config, lm=lm, hot_words=hot_words)


def spoken(text: str, seed: int = 0, errors: float = 0.2) -> LogProbs:
    return peaky_log_probs(seed, ENGLISH_CHARACTERS.encode(text.split()), len(ENGLISH_CHARACTERS), errors)


@pytest.mark.parametrize("recombine", [False, True])
def test_the_lexicon_with_look_ahead_is_exact_too(recombine: bool) -> None:
    """Look-ahead only anticipates. Recombination changes no score of the best."""
    lexicon, lm = LEXICON.with_unigrams(small_lm()), small_lm()
    config = replace(UNPRUNED, recombine=recombine)
    for seed in range(20, 26):
        log_probs = random_log_probs(seed, 7, 4)
        plain = BeamDecoder(SOUNDS, UNPRUNED, LEXICON, lm).decode(log_probs, 5)
        found = BeamDecoder(SOUNDS, config, lexicon, lm).decode(log_probs, 5)
        assert found[0].text == plain[0].text
        if not recombine:
            assert [h.text for h in found] == [h.text for h in plain]
            assert [h.score for h in found] == pytest.approx([h.score for h in plain], abs=1e-5)


@pytest.mark.parametrize("kind", ["open", "model", "lexicon", "hot words"])
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_chunking_gives_the_same(kind: str, data: st.DataObject) -> None:
    config = BeamConfig(beam_width=8, history_frames=60)
    sounds = BeamDecoder(SOUNDS, config, LEXICON.with_unigrams(small_lm()), small_lm())
    decoder = {
        "open": lambda: BeamDecoder(ENGLISH_CHARACTERS, config),
        "model": lambda: character_decoder(config),
        "lexicon": lambda: sounds,
        "hot words": lambda: character_decoder(config, HotWords([("lazy dog", 3.0), ("bestow", 2.0)])),
    }[kind]()
    if kind == "lexicon":
        labels = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=300))
        log_probs = peaky_log_probs(1, labels, 4, 0.3)
    else:
        log_probs = spoken(" ".join(data.draw(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=8))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log_probs)), max_size=12)))
    state = decoder.start()
    for start, end in itertools.pairwise([0, *cuts, len(log_probs)]):
        state = decoder.advance(state, log_probs[start:end])
        decoder.best(state)  # looking does not disturb
    assert decoder.finish(state, 4) == decoder.decode(log_probs, 4)


def test_a_state_can_be_advanced_twice() -> None:
    decoder = character_decoder(BeamConfig(history_frames=60))
    first, second = spoken(" ".join(SENTENCES[:4])), spoken(SENTENCES[5])
    state = decoder.advance(decoder.start(), first)
    before = decoder.finish(state, 3)
    one = decoder.finish(decoder.advance(state, second), 3)
    decoder.advance(decoder.advance(state, first), first)
    assert decoder.finish(state, 3) == before
    assert decoder.finish(decoder.advance(state, second), 3) == one


def test_settling_words_changes_nothing() -> None:
    log_probs = spoken(" ".join(SENTENCES * 4), errors=0.3)
    assert len(log_probs) > 2000
    whole = character_decoder(BeamConfig(history_frames=10_000)).decode(log_probs)[0]
    decoder = character_decoder(BeamConfig(history_frames=80))
    state = decoder.start()
    for start in range(0, len(log_probs), 50):
        state = decoder.advance(state, log_probs[start : start + 50])
    assert sum(len(part.words) for part in state.settled) > 200
    found = decoder.finish(state)[0]
    # Confidences may differ a little at a cut: rivals that reach back beyond it are forgotten.
    assert [(w.text, w.start, w.end) for w in found.words] == [(w.text, w.start, w.end) for w in whole.words]
    assert found.score == pytest.approx(whole.score, abs=1e-6)


def test_memory_is_flat_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live objects in minutes 3 to 6 and 7 to 10, of peaky frames with a little noise between."""
    monkeypatch.setattr("edge_stt.prefix_tree.MAX_NODES", 2_000)
    rng = np.random.default_rng(0)
    lm = small_lm()
    config = BeamConfig(beam_width=8)
    sounds = BeamDecoder(SOUNDS, config, LEXICON.with_unigrams(lm), lm)
    for decoder, units in ((sounds, 4), (character_decoder(config), 29)):
        counts = []
        state = decoder.start()
        for second in range(1, 601):
            if second % 10:
                log_probs = peaky_log_probs(second, rng.integers(1, units, 12).tolist(), units)[:25]
            else:
                log_probs = random_log_probs(second, 10, units, 1.0)
            state = replace(decoder.advance(state, log_probs), settled=())  # words are kept, and may be
            if second % 20 == 0 and second > 120:
                gc.collect()
                counts.append(len(gc.get_objects()))
        assert len(counts) == 24
        assert np.mean(counts[12:]) < 1.05 * np.mean(counts[:12])


def character_error_rate(found: list[str]) -> float:
    return sum(edit_distance(tuple(a), tuple(b)) for a, b in zip(found, SENTENCES, strict=True)) / sum(
        map(len, SENTENCES)
    )


def test_without_a_model_as_good_as_pyctcdecode() -> None:
    build_ctcdecoder = pytest.importorskip("pyctcdecode").build_ctcdecoder
    other = build_ctcdecoder(["", *ENGLISH_CHARACTERS.symbols[1:]])
    decoder = BeamDecoder(ENGLISH_CHARACTERS, BeamConfig())
    ours, theirs = [], []
    for seed in range(4):
        utterances = [spoken(sentence, 10 * seed + i, 0.35) for i, sentence in enumerate(SENTENCES)]
        ours.append(character_error_rate([decoder.decode(u)[0].text for u in utterances]))
        theirs.append(character_error_rate([other.decode(u, beam_width=16) for u in utterances]))
    assert np.mean(ours) < 0.3
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.003


def test_without_a_model_as_good_as_flashlight() -> None:
    flashlight = pytest.importorskip("flashlight.lib.text.decoder")
    options = flashlight.LexiconFreeDecoderOptions(16, 28, 10.0, 0.0, 0.0, True, flashlight.CriterionType.CTC)
    other = flashlight.LexiconFreeDecoder(options, flashlight.ZeroLM(), SEPARATOR, BLANK, [])
    decoder = BeamDecoder(ENGLISH_CHARACTERS, BeamConfig())

    def flashlight_text(log_probs: LogProbs) -> str:
        path = other.decode(np.ascontiguousarray(log_probs).ctypes.data, *log_probs.shape)[0].tokens
        merged = [unit for unit, _ in itertools.groupby(path) if unit > BLANK]
        return " ".join("".join(ENGLISH_CHARACTERS.symbols[u] for u in merged).split())

    ours, theirs = [], []
    for seed in range(4):
        utterances = [spoken(sentence, 10 * seed + i, 0.35) for i, sentence in enumerate(SENTENCES)]
        ours.append(character_error_rate([decoder.decode(u)[0].text for u in utterances]))
        theirs.append(character_error_rate([flashlight_text(u) for u in utterances]))
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.003


def test_a_model_and_a_lexicon_help() -> None:
    utterances = [spoken(sentence, i, 0.35) for i, sentence in enumerate(SENTENCES)]
    plain = character_error_rate([greedy(u, ENGLISH_CHARACTERS).text for u in utterances])
    decoder = character_decoder()
    assert character_error_rate([decoder.decode(u)[0].text for u in utterances]) < 0.5 * plain


def test_open_vocabulary_spells_unknown_words() -> None:
    assert character_decoder().decode(spoken("the zyxgub was there", errors=0.0))[0].text == "the zyxgub was there"


def test_times_and_confidences() -> None:
    text = SENTENCES[2]
    labels = ENGLISH_CHARACTERS.encode(text.split())
    log_probs = clear_log_probs(labels, len(ENGLISH_CHARACTERS))
    for decoder in (BeamDecoder(ENGLISH_CHARACTERS), character_decoder()):
        found = decoder.decode(log_probs)[0]
        assert found.text == text
        position = 0
        for word in found.words:
            assert (word.start, word.end) == (3 * position + 3, 3 * (position + len(word.text) - 1) + 5)
            assert 0.5 < word.confidence < 1.0
            position += len(word.text) + 1
        assert [t.unit for t in found.tokens] == [u for u in labels if u != SEPARATOR]
        assert all(t.end - t.start == 2 and t.probability > 0.9 for t in found.tokens)


def test_doubtful_words_are_less_sure() -> None:
    """The word whose acoustics were spoilt gets the least confidence, and its rival heads the n-best list."""
    log_probs = clear_log_probs(ENGLISH_CHARACTERS.encode(["the", "old", "house"]), len(ENGLISH_CHARACTERS))
    d, n = ENGLISH_CHARACTERS.index["d"], ENGLISH_CHARACTERS.index["n"]
    spoilt = log_probs[:, d] > np.log(0.9)
    log_probs[spoilt, n], log_probs[spoilt, d] = np.log(0.45), np.log(0.5)
    found = BeamDecoder(ENGLISH_CHARACTERS).decode(log_probs, 4)
    assert found[0].text == "the old house"
    assert "the oln house" in {h.text for h in found}
    confidences = {word.text: word.confidence for word in found[0].words}
    assert confidences["old"] < min(confidences["the"], confidences["house"]) - 0.1
    assert found[1].words[1].confidence < confidences["the"] - 0.1
    assert all(0.0 <= word.confidence <= 1.0 for h in found for word in h.words)


def test_n_best_keeps_what_was_recombined() -> None:
    """Homophones early in an utterance part no more beams after a bigram's memory, yet both stay in the list."""
    symbols = "A|B|B|B|B|B"
    log_probs = peaky_log_probs(0, [SOUNDS.index[s] for s in symbols], 4, 0.0)
    lm = small_lm()
    found = BeamDecoder(SOUNDS, BeamConfig(beam_width=8), LEXICON.with_unigrams(lm), lm).decode(log_probs, 8)
    texts = [h.text for h in found]
    assert len(set(texts)) == len(texts) > 1
    assert {"to be be be be be", "two be be be be be"} <= set(texts)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_silence_and_nothing_are_empty() -> None:
    silence = np.full((40, 4), -20.0, np.float32)
    silence[:, BLANK] = 0.0
    lm = small_lm()
    for decoder in (BeamDecoder(SMALL), BeamDecoder(SOUNDS, None, LEXICON, lm)):
        for log_probs in (silence, silence[:0]):
            (found,) = decoder.decode(log_probs, 1)
            assert found.words == () == found.tokens
            assert found.text == ""


def test_a_word_cut_off_at_the_end_is_left_out() -> None:
    lexicon = Lexicon.build([("ab", "AB"), ("aba", "ABA")], SOUNDS)
    log_probs = clear_log_probs([SOUNDS.index[s] for s in "AB|A"], 4)
    assert BeamDecoder(SOUNDS, None, lexicon).decode(log_probs)[0].text == "ab"


@pytest.mark.parametrize(
    "setting",
    [
        {"beam_width": 0},
        {"beam_width": -3},
        {"beam_width": 100_000},
        {"beam_threshold": -1.0},
        {"beam_threshold": math.nan},
        {"token_top_k": 0},
        {"token_min_log_prob": 1.0},
        {"blank_skip_threshold": 0.1},
        {"lm_weight": -0.5},
        {"word_insertion_bonus": math.inf},
        {"unknown_word_score": math.nan},
        {"separator_penalty": -1.0},
        {"history_frames": 0},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(DecodingError, match=next(iter(setting))) as error:
        BeamConfig(**setting)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_parts_that_do_not_fit_are_refused() -> None:
    lm = small_lm()
    foreign = UnitSet("foreign", "characters", ("<blank>", " ", "ш", "щ"))
    for make in (
        lambda: BeamDecoder(ARPABET, None, LEXICON),
        lambda: BeamDecoder(SOUNDS, lm=lm),
        lambda: BeamDecoder(SOUNDS, lexicon=LEXICON, open_vocabulary=True),
        lambda: BeamDecoder(foreign, lm=lm),
        lambda: BeamDecoder(SOUNDS, None, Lexicon.build([("xyz", "AB")], SOUNDS), lm),
        lambda: BeamDecoder(SMALL).decode(random_log_probs(0, 5, 7)),
        lambda: BeamDecoder(SMALL).decode(np.full((3, 4), np.nan, np.float32)),
        lambda: BeamDecoder(SMALL).decode(random_log_probs(0, 5, 4), 0),
    ):
        with pytest.raises(DecodingError) as error:
            make()
        assert "\n" not in str(error.value)
