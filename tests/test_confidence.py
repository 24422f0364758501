"""Word confidences: the measure of their calibration, the fit that mends them, and the commands for both."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_stt.audio import SAMPLE_RATE, read_audio
from edge_stt.beam_config import ConfidenceConfig
from edge_stt.commands.decoder import app
from edge_stt.confidence import Judged, fit_line, mend, mended, oracle_errors, reliability_svg
from edge_stt.decoders import DecodingConfig
from edge_stt.decoding import DecodedWord, Hypothesis
from edge_stt.errors import DataError
from edge_stt.package import ModelInfo, ModelPackage, write_package
from edge_stt.phrases import PhraseConfig
from edge_stt.recogniser import DEFAULT_MODEL
from edge_stt.tuning import attach

from .conftest import DEMO, ROOT

pytest.importorskip("jiwer", reason="needs the bench extra")


def hypothesis(text: str, confidence: float = 0.5) -> Hypothesis:
    return Hypothesis(tuple(DecodedWord(word, i, i + 1, confidence) for i, word in enumerate(text.split())), 0.0)


def drawn(slope: float, offset: float, count: int = 20_000) -> Judged:
    """Words whose chance to be right is that line on the logit of their confidence."""
    rng = np.random.default_rng(1)
    logit = rng.normal(1.0, 1.5, count)
    right = rng.random(count) < 1 / (1 + np.exp(-slope * logit - offset))
    return Judged(1 / (1 + np.exp(-logit)), right)


def test_right_words_are_those_of_the_alignment() -> None:
    judged = Judged.of(
        [("the cat sat on it", hypothesis("the hat sat so on", 0.7)), ("", hypothesis("a", 0.2)), ("b", hypothesis(""))]
    )
    assert judged.right.tolist() == [True, False, True, False, True, False]
    assert judged.confidence.tolist() == [0.7] * 5 + [0.2]
    with pytest.raises(DataError, match="no words"):
        Judged.of([("b", hypothesis(""))])


def test_the_error_is_what_confidence_and_truth_differ_by() -> None:
    even = np.arange(1000) % 2 == 0
    assert Judged(np.full(1000, 0.9), even).error == pytest.approx(0.4, abs=0.02)
    assert drawn(1.0, 0.0).error < 0.012
    assert drawn(0.4, 0.0).error > 0.05


@pytest.mark.parametrize(("slope", "offset"), [(0.4, 0.0), (1.0, -1.0), (1.7, 0.5)])
def test_the_fit_finds_the_line_and_mends(slope: float, offset: float) -> None:
    judged = drawn(slope, offset)
    line = fit_line(judged)
    assert line == pytest.approx((slope, offset), abs=0.1)
    assert mended(judged, line).error < min(0.012, judged.error)


def test_the_settings_give_the_mended_confidence() -> None:
    before, line = ConfidenceConfig(), (0.7, -0.4)
    after = mend(before, line)
    odds, acoustics = np.random.default_rng(0).normal(0.0, 1.5, (2, 50))

    def confidence(config: ConfidenceConfig) -> np.ndarray:
        x = config.competition * odds + config.acoustics * acoustics + config.offset
        return 1 / (1 + np.exp(-x))

    nothing = np.zeros(50, np.bool_)
    assert confidence(after) == pytest.approx(mended(Judged(confidence(before), nothing), line).confidence, abs=1e-3)


def test_the_oracle_takes_the_best_reading() -> None:
    readings = [hypothesis("the hat sat"), hypothesis("the cat sad"), hypothesis("a cat sat")]
    assert oracle_errors("the cat sat", readings[:1]) == 1
    assert oracle_errors("a cat sat", readings) == 0
    assert oracle_errors("", [hypothesis("a b"), hypothesis("")]) == 0


def test_the_plot_is_a_picture() -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    content = reliability_svg([("raw", drawn(0.4, 0.0, 500)), ("mended", drawn(1.0, 0.0, 500))])
    assert content == reliability_svg([("raw", drawn(0.4, 0.0, 500)), ("mended", drawn(1.0, 0.0, 500))])
    text = " ".join(ET.fromstring(content).itertext())
    assert "confidence" in text
    assert "mended, ECE 0.0" in text


def test_settings_survive_the_package(tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    package = write_package(tmp_path / "plain", info, package_files)
    config = DecodingConfig.of(package)
    config = replace(config, beam=replace(config.beam, confidence=ConfidenceConfig(0.2, 1.1, -0.3)))
    assert DecodingConfig.of(attach(package, tmp_path / "kept", decoding=config)) == config
    assert "confidence" not in DecodingConfig().to_data()["beam"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DEFAULT_MODEL.is_dir():
        pytest.skip("this checkout carries no model")
    path = tmp_path_factory.mktemp("speech") / "dev.jsonl"
    clips = [DEMO, *sorted((ROOT / "tests" / "data").glob("*.opus"))]
    items = [
        {
            "audio_filepath": str(clip),
            "duration": len(read_audio(clip)) / SAMPLE_RATE,
            "text": clip.with_suffix(".txt").read_text(encoding="utf-8").strip(),
            "speaker": f"reader {number % 2}",
        }
        for number, clip in enumerate(clips)
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_measures_and_mends(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    said = run("confidence", DEFAULT_MODEL, manifest, "-o", tmp_path / "mended", "--plot", tmp_path / "plot.svg")
    assert "of the best of 16 readings" in said
    assert "mended, each half of the speakers by the other" in said
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")
    own = DecodingConfig.of(ModelPackage.load(DEFAULT_MODEL))
    made = DecodingConfig.of(ModelPackage.load(tmp_path / "mended"))
    assert made.beam.confidence != own.beam.confidence
    assert replace(made, beam=replace(made.beam, confidence=own.beam.confidence)) == own


def test_phrases_are_counted_and_calibrated(manifest: Path, tmp_path: Path) -> None:
    phrases = tmp_path / "phrases.txt"
    phrases.write_text(
        f"{DEMO.with_suffix('.txt').read_text(encoding='utf-8').strip()}\nturn the light (on|off)\n", encoding="utf-8"
    )
    counted = run("phrases", phrases, manifest)
    others = len(manifest.read_text(encoding="utf-8").splitlines()) - 1
    assert f"{phrases}: 3 phrases" in counted
    assert f"1 phrases: 100.0 % right, 0.0 % taken for another, {others} others: 0.0 % accepted" in counted
    assert "1 phrases: 0.0 % right" in run("phrases", phrases, manifest, "--threshold", "1")
    said = run("calibrate", DEFAULT_MODEL, phrases, manifest, "--noise", manifest, "-o", tmp_path / "calibrated")
    assert f"1 phrases: 100.0 % right, 0.0 % taken for another, {others} others: 0.0 % accepted" in said
    made = DecodingConfig.of(ModelPackage.load(tmp_path / "calibrated")).phrases
    assert made != PhraseConfig()
    assert 0.0 < made.threshold < 1.0
