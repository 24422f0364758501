"""Training: the whole way on a tiny model, resuming after kill -9, and what is done with bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt.audio import read_audio
from edge_stt.errors import DataError
from edge_stt.features import FrontEndConfig, log_mel
from edge_stt.interrupts import Interrupted
from edge_stt.language import load_language

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
    assert "has no speed-0.9, speed-1.1, room-0: batches are made of what it has" in done.stderr
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
def test_a_network_for_other_features_is_refused(prepared: Path, tmp_path: Path) -> None:
    done = _train("--data", prepared, "--dev", prepared, "--run", tmp_path / "run", "--set", "model.n_mels=40")
    message = f"config: model.n_mels is 40, and {prepared} has 80 mel bins"
    assert (done.returncode, done.stdout, message in done.stderr) == (1, "", True)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


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


def test_a_set_that_was_not_prepared_to_its_end_is_none(tmp_path: Path) -> None:
    """Neither is the set that was in the folder before: its texts would belong to other frames."""
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    from train.prepare import PrepareConfig, PreparedSet, prepare

    config = PrepareConfig(speeds=(), room_copies=0)
    prepare([_manifest(tmp_path)], tmp_path / "set", config, processes=1)
    old = PreparedSet(tmp_path / "set")
    frames = old.frames(len(CLIPS) - 1)
    too_short = json.dumps({"audio_filepath": str(DATA / "demo.opus"), "text": "word " * 500, "id": "much"})
    with pytest.raises(DataError, match="cannot be spoken"):
        prepare([_manifest(tmp_path, (too_short,))], tmp_path / "set", config, processes=1, strict=True)
    with pytest.raises(DataError, match="not a prepared set"):
        PreparedSet(tmp_path / "set")
    np.testing.assert_array_equal(old.frames(len(CLIPS) - 1), frames)  # whoever has it open keeps what it was


def _prepared_set(folder: Path, lengths: tuple[int, ...] = (120, 160, 200), text: str = "guten tag") -> Path:
    """A prepared set of noise and German, which has no phonemes: nothing has to be learned to label it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    clips = [{"id": f"c/{i}", "corpus": "c", "speaker": "c/x", "duration": n / 100} for i, n in enumerate(lengths)]
    (folder / "clips.jsonl").write_text("".join(json.dumps({**clip, "text": text}) + "\n" for clip in clips))
    (folder / "plain.f16").write_bytes(rng.normal(-6.0, 1.0, (sum(lengths), 80)).astype(np.float16).tobytes())
    np.save(folder / "plain.npy", np.cumsum([0, *lengths]))
    np.savez(folder / "statistics.npz", mean=np.full(80, -6.0, np.float32), std=np.ones(80, np.float32))
    report = {"variants": ["plain"], "front_end": asdict(FrontEndConfig())}
    (folder / "report.json").write_text(json.dumps({**report, "language": load_language("german").to_package()}))
    return folder


def _cut(path: Path, size: int = 160) -> None:
    path.write_bytes(path.read_bytes()[:-size])


def _drop_a_clip(folder: Path) -> None:
    path = folder / "clips.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _cut(folder / "plain.f16"), "do not belong together: prepare it again"),
        (_drop_a_clip, "do not belong together: prepare it again"),
        (lambda folder: _cut(folder / "clips.jsonl", 3), "not a prepared set"),
        (lambda folder: np.save(folder / "plain.npy", np.array([0, 480])), "do not belong together: prepare it again"),
        (lambda folder: (folder / "plain.f16").write_bytes(b""), "plain cannot be read"),
        (lambda folder: (folder / "plain.npy").unlink(), "plain cannot be read"),
        (lambda folder: (folder / "plain.npy").write_bytes(b""), "plain cannot be read"),
        (lambda folder: (folder / "report.json").unlink(), "not a prepared set"),
    ],
)
def test_a_prepared_set_whose_files_do_not_fit_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    from train.prepare import PreparedSet

    folder = _prepared_set(tmp_path / "set")
    assert len(PreparedSet(folder)) == 3
    damage(folder)
    with pytest.raises(DataError, match=message):
        PreparedSet(folder)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learning_rate=1", "optimizer"),
        ("optimizer.learning_rat=1", "learning_rate"),
        ("optimizer.learning_rate='x'", "learning_rate must be a number, not 'x'"),
        ("optimizer.learning_rate=-1.0", "above 0"),
        ("optimizer.learning_rate=nan", "must be a number, not nan"),
        ("steps", "key=value"),
        ("=3", "key=value"),
        ("#=3", "key=value"),
        ("steps and rates=3", "key=value"),
        ("batches.variant_weights.speed-0.9=1", "speed-0 must be a number, .*quotes"),
        ("steps=2.0", "steps must be a whole number"),
        ("steps=true", "steps must be a whole number"),
        ("seed=-1", "seed must be at least 0"),
        ("teacher=3", "teacher is a table"),
        ("teacher.runs=[1]", "an item of runs must be text, not 1"),
        ("teacher.runs=3", "runs must be a list"),
        ("teacher.weight=-1", "teacher.weight must be at least 0"),
        ("head_weights={characters='x'}", "head_weights.characters must be a number"),
        ("batches.corpus_weights={a='x'}", "corpus_weights.a must be a number"),
        ("batches.variant_weights={plain=-1}", "variant_weights.plain must be at least 0"),
        ("batches.variant_weights={plane=1}", "has 'plane'; variants are plain, speed-0.9"),
        ("batches.warp=-0.1", "batches.warp must be 0 to 0.5, not -0.1"),
        ("batches.warp=3.0", "batches.warp must be 0 to 0.5"),
        ("batches.tempo=1.0", "batches.tempo must be 0 to 0.5"),
        ("batches.running_share=1.1", "batches.running_share must be 0 to 1"),
        ("batches.curriculum_epochs=-1", "batches.curriculum_epochs must be at least 0"),
        ("head_weights.characters=-1", "head_weights.characters must be at least 0"),
        ("optimizer.name=sgd", "adamw or muon"),
        ("optimizer.ema_decay=1.0", "optimizer.ema_decay must be 0 to"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps must be at least 0"),
        ("optimizer.decay_share=2.0", "optimizer.decay_share must be 0 to 1"),
        ("optimizer.weight_decay=-1.0", "optimizer.weight_decay must be at least 0"),
        ("spec_augment.time_share=1.5", "spec_augment.time_share must be 0 to 1"),
        ("spec_augment.time_width=-1", "spec_augment.time_width must be at least 0"),
        ("spec_augment.frequency_width=81", "spec_augment.frequency_width must be 0 to 80, not 81"),
        ("model.n_mels=0", "model.n_mels"),
        ("model=3", "model is a table"),
        ("model.dropout=2.0", "dropout"),
        ("model.kernel=1", "kernel must be at least 2"),
        ("model.right_context=-1", "right_context must be at least 0"),
        ("model.strides=2", "strides must be a list"),
        ("model.strides=[]", "strides are one or more numbers"),
        ("model.strides=[2, 0]", "strides are one or more numbers"),
        ("model.strides=[2, 6]", "strides are one or more numbers"),
        ("model.strides=[2, 'x']", "an item of strides must be a whole number, not 'x'"),
        ("model.strides=[1.5]", "an item of strides must be a whole number"),
        ("model.strides=[true]", "an item of strides must be a whole number"),
        ("model.branches=2", "branches is a table"),
        ("model.branches={phonemes=5}", "branches.phonemes must be 1 to model.blocks, not 5"),
        ("model.branches={phonemes='x'}", "branches.phonemes must be a whole number"),
        ("model={family='ds2', conv_channels=['x', 2]}", "an item of conv_channels must be a whole number"),
        ("model={family='ds2', strides=[2]}", "unknown key 'strides'"),
    ],
)
def test_bad_settings_are_refused(override: str, message: str) -> None:
    from train.config import load_config

    with pytest.raises(DataError, match=message) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ('batches.variant_weights."speed-0.9"=0.5', ["batches", "variant_weights", "speed-0.9"], 0.5),
        ('batches.corpus_weights."a=b" = 2', ["batches", "corpus_weights", "a=b"], 2),
        ("language=./my=language.toml", ["language"], "./my=language.toml"),
        ("teacher.runs=['a', 'b']", ["teacher", "runs"], ["a", "b"]),
    ],
)
def test_what_an_override_sets(override: str, key: list[str], value: object) -> None:
    from train.config import _assignment

    assert _assignment(override) == (key, value)


def test_one_of_several_weights_is_set_and_the_others_stay(tmp_path: Path) -> None:
    from train.config import BatchConfig, load_config

    config = load_config(None, ['batches.variant_weights."speed-0.9"=0.5', "head_weights.characters=0.1"])
    assert config.batches.variant_weights == {**BatchConfig().variant_weights, "speed-0.9": 0.5}
    assert config.head_weights == {"characters": 0.1, "phonemes": 0.6}
    (tmp_path / "c.toml").write_text("[batches]\nvariant_weights = { plain = 1.0 }\n")
    config = load_config(tmp_path / "c.toml", ["batches.variant_weights.room-0=0.2"])
    assert config.batches.variant_weights == {"plain": 1.0, "room-0": 0.2}
    assert load_config(None, ["model.family=ds2", "model.dropout=0.2"]).model.dropout == 0.2


@pytest.mark.workstation
@pytest.mark.slow
def test_clips_that_are_all_too_short_are_said(prepared: Path, tmp_path: Path) -> None:
    overrides = ("--set", "model.strides=[5,5,5]", "--set", "mixed_bfloat16=false")
    done = _train("--data", prepared, "--dev", prepared, "--run", tmp_path / "run", *SMALL, *overrides)
    assert done.returncode == 1
    assert "edge-stt: no clip of the set can be used: all are too short for what is said in them" in done.stderr
    assert "Traceback" not in done.stderr


def test_variants_that_are_not_drawn_are_no_error(prepared: Path) -> None:
    from edge_stt.language import load_language
    from train.augment import SpecAugmentConfig
    from train.batches import Batches
    from train.config import BatchConfig
    from train.loop import encode_texts
    from train.prepare import PreparedSet

    data = PreparedSet(prepared)
    data.variants = ["plain", "speed-1.1"]
    lengths, frames = data.lengths(), data.frames
    data.lengths = lambda variant="plain": lengths if variant == "plain" else lengths * 0 + 8  # type: ignore[method-assign, assignment]
    data.frames = lambda clip, variant="plain": frames(clip, "plain")  # type: ignore[method-assign]
    units = {"characters": load_language("english").units["characters"]}
    labels = encode_texts([clip.text for clip in data.clips], units, None)
    batches = Batches(data, labels, BatchConfig(variant_weights={"speed-1.1": 1.0}), SpecAugmentConfig(), 1)
    assert {variant for group in batches.epoch(0) for _, variant in group} == {"plain"}  # the others are too short


def test_a_setting_of_what_is_no_table() -> None:
    from train.config import load_config

    with pytest.raises(DataError, match="steps is no table"):
        load_config(None, ["steps=3", "steps.x=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head_weights.phoneme=0.1", "head_weights has 'phoneme'; the heads are characters, phonemes"),
        ("head_weights={characters=0,phonemes=0}", "head_weights are all 0"),
        ("model.branches.words=1", "model.branches has 'words'"),
    ],
)
def test_settings_of_heads_that_are_not_there(override: str, message: str) -> None:
    from train.config import load_config

    config = load_config(None, [override])
    with pytest.raises(DataError, match=message):
        config.check_heads(["characters", "phonemes"])


def test_a_language_without_phonemes_needs_no_weights_of_its_own() -> None:
    from train.config import load_config

    load_config(None).check_heads(["characters"])
    with pytest.raises(DataError, match="all 0"):
        load_config(None, ["head_weights.characters=0"]).check_heads(["characters"])


def test_a_config_is_the_same_when_it_was_stored(tmp_path: Path) -> None:
    """And one that was stored before there were strides, branches and teachers has their defaults."""
    from train.config import config_of_run, load_config, to_dict

    config = load_config(None, ["model.strides=[2, 4]", "model.branches={phonemes=2}", "teacher.runs=a"])
    assert (config.model.strides, config.teacher.runs) == ((2, 4), ("a",))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert config_of_run(tmp_path) == config
    (tmp_path / "config.json").write_text('{"model": {"family": "conv", "blocks": 3}}')
    assert config_of_run(tmp_path) == load_config(None, ["model.blocks=3"])
    for damaged in ("[]", "{", "3"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(DataError, match="is not a training run"):
            config_of_run(tmp_path)


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


def test_two_views_of_a_clip_differ_in_all_but_their_time(tmp_path: Path) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    from train.augment import SpecAugmentConfig
    from train.batches import Batches
    from train.config import BatchConfig
    from train.prepare import PrepareConfig, PreparedSet, prepare

    prepare([_manifest(tmp_path)], tmp_path / "set", PrepareConfig(speeds=(0.9,), room_copies=2), processes=1)
    data = PreparedSet(tmp_path / "set")
    labels = {"characters": [[2 + i, 3] for i in range(len(data))]}  # which tell the clips apart
    weights = dict.fromkeys(data.variants, 1.0)

    def batches(**settings: Any) -> Batches:
        config = BatchConfig(seconds=60.0, consistency_weight=0.2, variant_weights=weights, warp=0.0, **settings)
        none = SpecAugmentConfig(frequency_masks=0, time_masks_per_second=0.0, time_warp=20)
        return Batches(data, labels, config, none, seed=1)

    still, moved = batches(running_share=0.0), batches(running_share=0.0, tempo=0.1)
    for variant in data.variants:  # copies in rooms may be of other speeds
        alike = {other for other in data.variants if data.lengths(other)[0] == data.lengths(variant)[0]}
        assert {still._like(0, variant, np.random.default_rng(i)) for i in range(60)} == alike
    assert data.lengths("speed-0.9")[0] > data.lengths("plain")[0]
    for source, epoch in ((still, 0), (moved, 0), (moved, 1)):
        for items in source.epoch(epoch):
            batch = source.load(items, np.random.default_rng(3))
            units = batch.labels["characters"]
            assert units[::2] == units[1::2] == [labels["characters"][clip] for clip, _ in items]
            np.testing.assert_array_equal(batch.lengths[::2], batch.lengths[1::2])
            assert batch.seconds <= 60.0
    # Of two plain views warped in time alike, and with nothing masked, nothing differs.
    plain = BatchConfig(consistency_weight=0.2, variant_weights={"plain": 1.0}, warp=0.0, running_share=0.0, tempo=0.1)
    alike = Batches(data, labels, plain, SpecAugmentConfig(0, 20, 0.0, 25, 0.3, 20), seed=1)
    batch = alike.load(alike.epoch(0)[0], np.random.default_rng(3))
    np.testing.assert_array_equal(batch.log_mel[::2], batch.log_mel[1::2])
    assert len(alike.epoch(0)[0]) < 2 or (batch.log_mel[0] != batch.log_mel[2]).any()


def _small_config(**settings: Any) -> Any:
    from train.config import TrainConfig
    from train.models.conv import ConvConfig

    model = ConvConfig(stem_channels=8, channels=16, blocks=1)
    start = TrainConfig(language="german", steps=2, eval_every=1, checkpoint_every=2, model=model)
    return replace(start, **settings)


def _start(config: Any, folder: Path, run: Path) -> Any:
    """`start_run` on the sets ``train`` and ``dev`` of a folder, as a process of its own would."""
    import keras

    from train.start import start_run

    keras.utils.clear_session()  # Keras numbers what has no name
    return start_run(config, folder / "train", folder / "dev", run)


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps and the set, ``train`` and ``dev``, that it was trained on."""
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    pytest.importorskip("tensorflow", reason="needs the train extra")
    folder = tmp_path_factory.mktemp("old")
    _prepared_set(folder / "train")
    _prepared_set(folder / "dev", (100,))
    _start(_small_config(), folder, folder / "run")
    return folder


def _other_statistics(folder: Path) -> None:
    np.savez(folder / "train" / "statistics.npz", mean=np.full(80, -5.0, np.float32), std=np.ones(80, np.float32))


def _other_units(folder: Path) -> None:
    """The letters of German in another order."""
    symbols = " ".join(load_language("german").units["characters"].symbols[:1:-1])
    (folder / "mine.toml").write_text(f'extends = "german"\n[units.characters]\nsymbols = "{symbols}"\n')


def _other_texts(folder: Path, name: str) -> None:
    path = folder / name / "clips.jsonl"
    path.write_text(path.read_text().replace("tag", "morgen"))


def _contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.iterdir()) if path.is_file()}


REFUSED: list[tuple[str, Callable[[Path], object], Callable[[Any, Path], Any]]] = [
    (
        "model.channels is 16 there, 24 here; model.dropout is 0.1 there, 0.2 here",
        lambda folder: None,
        lambda config, folder: replace(config, model=replace(config.model, channels=24, dropout=0.2)),
    ),
    (
        r"model.strides is \(2, 2\) there, \(2, 4\) here; model.branches is \{\} there",
        lambda folder: None,
        lambda config, folder: replace(
            config, model=replace(config.model, strides=(2, 4), branches={"characters": 1}, dropout=0.1)
        ),
    ),
    ("the train data are others", lambda folder: _other_texts(folder, "train"), lambda config, folder: config),
    ("the dev data are others", lambda folder: _other_texts(folder, "dev"), lambda config, folder: config),
    ("the training data have other statistics", _other_statistics, lambda config, folder: config),
    (
        "the units of the head 'characters' are others",
        _other_units,
        lambda config, folder: replace(config, language=str(folder / "mine.toml")),
    ),
    (
        "of another architecture, size or optimizer",
        lambda folder: None,
        lambda config, folder: replace(config, optimizer=replace(config.optimizer, name="muon")),
    ),
    ("damaged", lambda folder: (folder / "run/model.json").write_text("{"), lambda config, folder: config),
]


@pytest.mark.workstation
@pytest.mark.parametrize(("message", "change", "asked"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_run_of_something_else_is_refused_and_stays_as_it_is(
    old_run: Path,
    tmp_path: Path,
    message: str,
    change: Callable[[Path], object],
    asked: Callable[[Any, Path], Any],
) -> None:
    folder = shutil.copytree(old_run, tmp_path / "old")
    change(folder)
    before = _contents(folder / "run")
    assert {"config.json", "model.json", "run.json", "checkpoint.npz", "best.npz"} <= before.keys()
    with pytest.raises(DataError, match=message):
        _start(asked(_small_config(steps=4), folder), folder, folder / "run")
    assert _contents(folder / "run") == before
    (folder / "run" / "checkpoint.npz").unlink()  # `best.npz` alone is worth as much
    if "optimizer" not in message:
        with pytest.raises(DataError, match=message):
            _start(asked(_small_config(steps=4), folder), folder, folder / "run")


@pytest.mark.workstation
def test_how_a_run_is_trained_may_change_when_it_is_resumed(old_run: Path, tmp_path: Path) -> None:
    from train.augment import SpecAugmentConfig
    from train.config import BatchConfig, OptimizerConfig, config_of_run

    folder = shutil.copytree(old_run, tmp_path / "old")
    config = _small_config(
        name="longer",
        steps=3,
        eval_every=3,
        checkpoint_every=1,
        patience=9,
        batches=BatchConfig(seconds=3.0, warp=0.0, corpus_weights={"c": 2.0}),
        spec_augment=SpecAugmentConfig(frequency_masks=0),
        optimizer=OptimizerConfig(learning_rate=1e-4, clip_norm=1.0),
    )
    trainer = _start(config, folder, folder / "run")
    assert trainer.step == 3
    assert config_of_run(folder / "run") == config
    with np.load(folder / "run" / "checkpoint.npz") as checkpoint:
        assert checkpoint["progress"][0] == 3


class _CountingSteps:
    """Steps whose weights are how many were taken; at some of them, signals come before they return."""

    def __init__(self, signals: dict[int, tuple[int, ...]]) -> None:
        self.signals, self.taken = signals, 0

    def train(self, batch: object) -> dict[str, float]:
        self.taken += 1
        for number in self.signals.get(self.taken, ()):
            signal.raise_signal(number)
        return {"characters": 1.0, "norm": 1.0}

    def state(self) -> dict[str, Any]:
        return {"model/taken": np.array(self.taken)}


class _EndlessBatches:
    def from_step(self, step: int) -> Iterator[tuple[int, Any]]:
        from train.batches import collate

        while True:
            yield 0, collate([np.zeros((64, 80), np.float32)], {"characters": [[2]]})


def _interrupted_run(run: Path, monkeypatch: pytest.MonkeyPatch, *signals: int) -> BaseException:
    """Train, saving after every second step, with signals in the fifth one; what came of it."""
    from train import loop

    run.mkdir()
    steps = _CountingSteps({5: signals})
    monkeypatch.setattr(loop, "make_steps", lambda *settings: steps)
    units = load_language("german").units
    trainer = loop.Trainer(_small_config(steps=9, eval_every=100, checkpoint_every=2), units, run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, Interrupted)) as caught:
        trainer.train(_EndlessBatches(), loop.DevSet("none", None, [], None), {})  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) == before
    return caught.value


@pytest.mark.workstation
def test_a_run_that_gets_no_better_ends_saves_and_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    from edge_stt.language import load_language
    from train import loop

    steps = _CountingSteps({})
    monkeypatch.setattr(loop, "make_steps", lambda *settings: steps)
    (tmp_path / "run").mkdir()
    config = _small_config(steps=50, eval_every=1, checkpoint_every=100, patience=3)
    trainer = loop.Trainer(config, load_language("german").units, tmp_path / "run")
    monkeypatch.setattr(trainer, "_score", lambda *_: setattr(trainer, "stale", trainer.stale + 1))
    for _ in range(2):  # the second time it is over already
        trainer.train(_EndlessBatches(), loop.DevSet("none", None, [], None), {})  # type: ignore[arg-type]
        with np.load(tmp_path / "run" / "checkpoint.npz") as checkpoint:
            assert (checkpoint["progress"][0], checkpoint["progress"][3], checkpoint["model/taken"]) == (3, 3, 3)
        assert "no better for 3 scorings" in capsys.readouterr().err


@pytest.mark.workstation
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_step_lets_it_end_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    raised = _interrupted_run(tmp_path / "run", monkeypatch, number)
    with np.load(tmp_path / "run" / "checkpoint.npz") as checkpoint:
        assert (checkpoint["progress"][0], checkpoint["model/taken"]) == (5, 5)
    assert isinstance(raised, Interrupted)
    assert raised.number == number


@pytest.mark.workstation
def test_a_second_ctrl_c_ends_at_once_and_leaves_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    raised = _interrupted_run(tmp_path / "run", monkeypatch, signal.SIGINT, signal.SIGINT)
    assert isinstance(raised, KeyboardInterrupt)
    with np.load(tmp_path / "run" / "checkpoint.npz") as checkpoint:
        assert (checkpoint["progress"][0], checkpoint["model/taken"]) == (4, 4)


@pytest.mark.workstation
def test_ctrl_c_while_scoring_leaves_weights_and_averages_in_their_places(
    old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="needs the train extra")
    from train import steps_tensorflow

    copies = 0

    class InterruptedTensorFlow:
        """Ctrl-C comes when the second of the weights is swapped with its average."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tensorflow, name)

        def identity(self, value: Any) -> Any:
            nonlocal copies
            copies += 1
            if copies == 2:
                signal.raise_signal(signal.SIGINT)
            return tensorflow.identity(value)

    monkeypatch.setattr(steps_tensorflow, "tf", InterruptedTensorFlow())
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        _start(_small_config(), old_run, tmp_path / "interrupted")
    monkeypatch.undo()
    _start(_small_config(), old_run, tmp_path / "interrupted")
    with (
        np.load(old_run / "run" / "checkpoint.npz") as whole,
        np.load(tmp_path / "interrupted" / "checkpoint.npz") as resumed,
    ):
        assert whole.files == resumed.files
        for name in whole.files:
            np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert caught.value.args == (130,)
