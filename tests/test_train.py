"""Training: the whole way on a tiny model, resuming after kill -9, and what is done with bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_stt.audio import read_audio
from edge_stt.errors import DataError
from edge_stt.features import FrontEndConfig, log_mel

from .conftest import DATA, ROOT

CLIPS = [
    (DATA / "demo.opus", DATA / "demo.txt"),
    *((p, p.with_suffix(".txt")) for p in (ROOT / "tests/data").glob("*.opus")),
]
SMALL = ["--set", "model.channels=32", "--set", "model.stem_channels=16", "--set", "model.blocks=1"]


def _manifest(folder: Path, extra: tuple[str, ...] = ()) -> Path:
    lines = []
    for audio, text in CLIPS:
        item = {"audio_filepath": str(audio), "text": text.read_text(encoding="utf-8").strip(), "speaker": "LJ"}
        item["duration"] = len(read_audio(audio)) / 16_000
        lines.append(json.dumps(item))
    path = folder / "train.jsonl"
    path.write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")
    return path


def _train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    folder: Path = tmp_path_factory.mktemp("prepared")
    done = _train("prepare", "--plain", "--out", folder / "set", _manifest(folder))
    assert done.returncode == 0, done.stderr
    return folder / "set"


@pytest.mark.workstation
@pytest.mark.slow
def test_the_whole_way(prepared: Path, tmp_path: Path) -> None:
    """prepare → train → convert → package → transcribe: a tiny model learns the clips well enough to write letters."""
    run, package = tmp_path / "run", tmp_path / "tiny"
    settings = ["steps=240", "eval_every=120", "optimizer.warmup_steps=20", "optimizer.learning_rate=6e-3"]
    settings += ["batches.warp=0.0", "spec_augment.frequency_masks=0", "spec_augment.time_masks_per_second=0.0"]
    settings += ["model.dropout=0.0", "optimizer.ema_decay=0.9"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = _train("--data", prepared, "--dev", prepared, "--run", run, *SMALL, *overrides)
    assert done.returncode == 0, done.stderr[-2000:]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["characters"] for line in log if "characters" in line]
    assert losses[-1] < 0.5 * losses[0]

    edge_stt = [sys.executable, "-m", "edge_stt.cli"]
    done = subprocess.run(
        [*edge_stt, "convert", str(run), "-o", str(package)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = subprocess.run(
        [*edge_stt, "transcribe", "--model", str(package), str(CLIPS[0][0])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip()) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert len(done.stdout.strip()) > 10
    done = subprocess.run([*edge_stt, "doctor", "--model", str(package)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.workstation
@pytest.mark.slow
def test_kill_and_resume_equals_an_uninterrupted_run(prepared: Path, tmp_path: Path) -> None:
    settings = ["steps=24", "checkpoint_every=4", "eval_every=24", "optimizer.warmup_steps=4"]
    arguments = ["--data", prepared, "--dev", prepared, *SMALL, *(p for s in settings for p in ("--set", s))]
    done = _train(*arguments, "--run", tmp_path / "whole")
    assert done.returncode == 0, done.stderr[-2000:]

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "train", *map(str, arguments), "--run", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with np.load(killed / "checkpoint.npz") as checkpoint:
        assert 4 <= checkpoint["progress"][0] < 24, "the process was to be killed in the middle"
    done = _train(*arguments, "--run", killed)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "whole" / "checkpoint.npz") as a, np.load(killed / "checkpoint.npz") as b:
        assert set(a.files) == set(b.files)
        for name in a.files:
            if name.startswith(("model/", "average/")):
                np.testing.assert_allclose(b[name], a[name], atol=2e-3, err_msg=name)


def test_bad_clips_are_reported_and_left_out(tmp_path: Path) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    from train.prepare import PrepareConfig, PreparedSet, prepare

    (tmp_path / "noise.txt").write_text("not audio")
    demo = str(DATA / "demo.opus")
    bad = (
        json.dumps({"audio_filepath": "missing.wav", "text": "hello", "duration": 1.0}),
        json.dumps({"audio_filepath": "noise.txt", "text": "hello", "duration": 1.0}),
        json.dumps({"audio_filepath": demo, "text": "…", "duration": 1.0, "id": "empty"}),
        json.dumps({"audio_filepath": demo, "text": "hello there", "duration": 99.0, "id": "long"}),
        json.dumps({"audio_filepath": demo, "text": "word " * 500, "id": "much"}),
        json.dumps({"audio_filepath": demo}),
        "{",
    )
    manifest = _manifest(tmp_path, bad)
    config = PrepareConfig(speeds=(0.9,), room_copies=0)
    summary = prepare([manifest], tmp_path / "set", config, processes=1)
    first_bad = len(CLIPS) + 1
    reported = {int(problem.split(":")[1]) for problem in summary["left_out"]}
    assert reported == set(range(first_bad, first_bad + len(bad)))
    data = PreparedSet(tmp_path / "set")
    assert len(data) == len(CLIPS)
    plain = log_mel(read_audio(CLIPS[0][0]), FrontEndConfig())
    np.testing.assert_allclose(data.frames(0), plain, atol=0.02)  # float16
    assert data.lengths("speed-0.9")[0] == pytest.approx(len(plain) / 0.9, abs=4)
    with pytest.raises(DataError, match=f"train.jsonl:{first_bad}"):
        prepare([manifest], tmp_path / "strict", config, processes=1, strict=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learning_rate=1", "optimizer"),
        ("optimizer.learning_rat=1", "learning_rate"),
        ("optimizer.learning_rate='x'", "must be float"),
        ("optimizer.learning_rate=-1.0", "above 0"),
        ("steps", "key=value"),
        ("model.dropout=2.0", "dropout"),
    ],
)
def test_bad_settings_are_refused(override: str, message: str) -> None:
    pytest.importorskip("keras", reason="needs the train extra")
    from train.config import load_config

    with pytest.raises(DataError, match=message):
        load_config(None, [override])


def test_labels_that_need_more_frames_than_there_are() -> None:
    pytest.importorskip("keras", reason="needs the train extra")
    from train.batches import frames_needed

    assert frames_needed([2, 3, 4]) == 3
    assert frames_needed([2, 2, 3, 3, 3]) == 8


def test_levenshtein_agrees_with_jiwer() -> None:
    pytest.importorskip("tensorflow", reason="needs the train extra")
    jiwer = pytest.importorskip("jiwer", reason="needs the bench extra")
    from train.loop import error_count

    rng = np.random.default_rng(0)
    for _ in range(200):
        reference = [chr(97 + int(x)) for x in rng.integers(4, size=int(rng.integers(1, 9)))]
        hypothesis = [chr(97 + int(x)) for x in rng.integers(4, size=int(rng.integers(0, 9)))]
        out = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        assert error_count(reference, hypothesis) == out.substitutions + out.deletions + out.insertions


def test_recordings_without_speech_are_learned_as_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    pytest.importorskip("tensorflow", reason="needs the train extra")
    import soundfile

    from edge_stt.language import load_language
    from edge_stt.units import SEPARATOR
    from train.loop import encode_texts
    from train.prepare import PrepareConfig, PreparedSet, prepare

    rng = np.random.default_rng(3)
    soundfile.write(tmp_path / "hiss.wav", rng.normal(0.0, 0.1, 30 * 16_000), 16_000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    (tmp_path / "noise.jsonl").write_text(
        "".join(json.dumps({"audio_filepath": f"{name}.wav", "text": ""}) + "\n" for name in ("hiss", "silence"))
    )
    config = PrepareConfig(speeds=(), room_copies=0)
    prepare([_manifest(tmp_path)], tmp_path / "set", config, processes=1, no_speech=[tmp_path / "noise.jsonl"])
    prepare([_manifest(tmp_path)], tmp_path / "speech", config, processes=1)
    data, speech = PreparedSet(tmp_path / "set"), PreparedSet(tmp_path / "speech")
    assert [clip.text for clip in data.clips[-2:]] == ["", ""]
    assert data.lengths()[-2:] / 100 == pytest.approx([config.max_seconds, 1.0], abs=0.05)
    np.testing.assert_array_equal(data.statistics.mean, speech.statistics.mean)  # those of speech
    units = load_language("english").units
    labels = encode_texts(["a b", ""], units, lambda text: [("AH",)] * len(text.split()))
    assert all(sequences[1] == [SEPARATOR] and len(sequences[0]) == 3 for sequences in labels.values())


def test_an_epoch_takes_clips_as_often_as_their_corpus_weighs(prepared: Path) -> None:
    pytest.importorskip("keras", reason="needs the train extra")
    from train.augment import SpecAugmentConfig
    from train.batches import Batches
    from train.config import BatchConfig
    from train.prepare import PreparedSet

    data = PreparedSet(prepared)
    (corpus,) = {clip.corpus for clip in data.clips}
    labels = {"characters": [[2]] * len(data)}

    def taken(weight: float) -> list[int]:
        config = BatchConfig(corpus_weights={corpus: weight})
        batches = Batches(data, labels, config, SpecAugmentConfig(), seed=1)
        return [sum(map(len, batches.epoch(epoch))) for epoch in range(40)]

    assert set(taken(1.0)) == {len(data)}
    assert set(taken(3.0)) == {3 * len(data)}
    assert np.mean(taken(0.5)) == pytest.approx(0.5 * len(data), rel=0.25)
    with pytest.raises(DataError, match="no-such"):
        Batches(data, labels, BatchConfig(corpus_weights={"no-such": 1.0}), SpecAugmentConfig(), seed=1)
