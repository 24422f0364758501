"""Decoders of a package by name, attaching a lexicon, and tuning weights on a dev set."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_stt.beam import BeamConfig, ConfidenceConfig
from edge_stt.decoders import DecodingConfig, build_decoder, choose
from edge_stt.errors import DataError, DecodingError
from edge_stt.hotwords import HotWords
from edge_stt.lexicon import Lexicon
from edge_stt.package import ModelInfo, ModelPackage, write_package
from edge_stt.phrases import PhraseConfig
from edge_stt.tuning import attach, tune
from edge_stt.units import ENGLISH_CHARACTERS as CHARACTERS
from edge_stt.units import UnitSet

WORDS = ["turn", "on", "the", "kitchen", "light", "off"]


def log_probs_of(text: str, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A blank and a peak for each character; ``noise`` spreads the mass at random."""
    units = CHARACTERS.encode(text.split())
    out = np.full((2 * len(units) + 1, len(CHARACTERS)), -5.0)
    out[::2, 0] = 0.0
    out[1::2, :][np.arange(len(units)), units] = 0.0
    out += np.random.default_rng(seed).normal(0, noise, out.shape)
    return (out - np.logaddexp.reduce(out, axis=1, keepdims=True)).astype(np.float32)


def shy(log_probs: np.ndarray, by: float) -> np.ndarray:
    """A model that says blank too often."""
    out = log_probs.copy()
    out[:, 0] += by
    return out - np.logaddexp.reduce(out, axis=1, keepdims=True)


def decode(package: ModelPackage, config: DecodingConfig, log_probs: np.ndarray) -> str:
    decoder = build_decoder(package, config)
    return decoder.finish(decoder.advance(decoder.start(), log_probs))[0].text


@pytest.fixture
def package(tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> ModelPackage:
    return write_package(tmp_path / "plain", info, package_files)


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "words.lexicon"
    built = Lexicon.of_spellings(WORDS, CHARACTERS)
    built.with_scores(np.full(len(built), -2.0, np.float32)).save(path)
    return path


@pytest.fixture(params=["with", "with.zip"])
def with_lexicon(request: pytest.FixtureRequest, tmp_path: Path, package: ModelPackage, lexicon: Path) -> ModelPackage:
    return attach(package, tmp_path / request.param, lexicon)


def test_a_package_without_settings_is_decoded_greedily(package: ModelPackage) -> None:
    config = DecodingConfig.of(package)
    assert config.decoder == "greedy"
    assert decode(package, config, log_probs_of("turn onn the")) == "turn onn the"


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_decoders_without_a_lexicon_write_any_word(package: ModelPackage, name: str) -> None:
    assert decode(package, choose(package, name), log_probs_of("xyz it's")) == "xyz it's"


def test_the_lexicon_decides_once_attached(with_lexicon: ModelPackage) -> None:
    config = DecodingConfig.of(with_lexicon)
    assert (config.decoder, config.head) == ("lexicon", "characters")
    assert decode(with_lexicon, config, log_probs_of("turn on tha kitchen light")) == "turn on the kitchen light"


def test_pieces_decode_as_the_whole(with_lexicon: ModelPackage) -> None:
    log_probs = log_probs_of("turn off the light", noise=0.5)
    for name in ("greedy", "beam", "lexicon"):
        decoder = build_decoder(with_lexicon, choose(with_lexicon, name))
        state = decoder.start()
        for start in range(0, len(log_probs), 7):
            state = decoder.advance(state, log_probs[start : start + 7])
        assert decoder.finish(state)[0].text == decode(with_lexicon, choose(with_lexicon, name), log_probs)


def test_settings_survive_the_package(tmp_path: Path, with_lexicon: ModelPackage) -> None:
    beam = BeamConfig(beam_width=7, lm_weight=0.6, word_insertion_bonus=1.5)
    config = DecodingConfig("lexicon", "characters", 0.3, (-1.5,) * len(CHARACTERS), beam)
    tuned = attach(with_lexicon, tmp_path / "tuned", decoding=config)
    assert DecodingConfig.of(ModelPackage.load(tuned.path)) == config
    assert choose(tuned, beam_width=3).beam.beam_width == 3


def test_another_lexicon_keeps_what_else_was_set(tmp_path: Path, with_lexicon: ModelPackage, lexicon: Path) -> None:
    beam = BeamConfig(beam_width=7, lm_weight=0.6, confidence=ConfidenceConfig(offset=0.25))
    config = DecodingConfig("lexicon", "characters", 0.3, (-1.5,) * len(CHARACTERS), beam, PhraseConfig(offset=3.0))
    tuned = attach(with_lexicon, tmp_path / "tuned", decoding=config)
    assert DecodingConfig.of(attach(tuned, tmp_path / "again", lexicon)) == config


def test_priors_make_a_shy_model_speak(with_lexicon: ModelPackage) -> None:
    """Where the blank drowns every unit, taking its prior off brings the words back."""
    quiet = shy(log_probs_of("turn off the light"), 9.0)
    config = DecodingConfig.of(with_lexicon)
    assert decode(with_lexicon, config, quiet) == ""
    log_priors = tuple(np.log(np.exp(quiet).mean(axis=0) + 1e-6).tolist())
    heard = replace(config, prior_weight=1.0, log_priors=log_priors)
    assert decode(with_lexicon, heard, quiet) == "turn off the light"
    with pytest.raises(DecodingError, match="prior for each"):
        build_decoder(with_lexicon, replace(config, prior_weight=1.0))


def test_tuning_lowers_the_error_rate(with_lexicon: ModelPackage) -> None:
    texts = ["turn on the kitchen light", "turn the light off", "kitchen light on"]
    utterances = [(shy(log_probs_of(text, noise=0.5, seed=i), 6.0), text) for i, text in enumerate(texts)]

    def errors(reference: str, hypothesis: str) -> int:
        return sum(a != b for a, b in zip(reference.split(), [*hypothesis.split(), *[""] * 9], strict=False))

    wide = BeamConfig(beam_threshold=100.0, token_top_k=29, token_min_log_prob=-math.inf, word_insertion_bonus=-6.0)
    bad = replace(DecodingConfig.of(with_lexicon), beam=wide)
    tried = list(tune(with_lexicon, utterances, errors, bad))
    assert len({t.config for t in tried}) > 5
    assert tried[-1].wer == min(t.wer for t in tried) < tried[0].wer


def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, package: ModelPackage, with_lexicon: ModelPackage, info: ModelInfo, package_files: dict[str, bytes]
) -> None:
    other = UnitSet("other", "characters", ("<blank>", " ", "x", "y"))
    Lexicon.of_spellings(["xy"], other).save(tmp_path / "other.lexicon")
    with pytest.raises(DataError, match="'other'"):
        attach(package, tmp_path / "refused", tmp_path / "other.lexicon")
    with pytest.raises(DecodingError, match="no lexicon"):
        build_decoder(package, replace(choose(package), decoder="lexicon"))
    with pytest.raises(DecodingError, match="unknown decoder"):
        choose(package, "viterbi")
    with pytest.raises(DecodingError, match="hot words"):
        build_decoder(package, choose(package, "greedy"), HotWords([("light", 2.0)]))
    newer = replace(info, decoding={"decoder": "beam", "head": "characters", "beam": {"new_setting": 1}})
    path = write_package(tmp_path / "newer", newer, package_files)
    with pytest.raises(DecodingError, match="update edge-stt"):
        DecodingConfig.of(path)
    with pytest.raises(DataError, match="no words"):
        list(tune(with_lexicon, [], lambda a, b: 0))
