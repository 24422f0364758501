"""`edge-stt bench` on real clips with the real model: figures that must hold together, failures, reports, comparing."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_stt.audio import read_audio
from edge_stt.bench_worker import measure_stream, revised_words, speech_bounds
from edge_stt.benchmark import TestSet, Worker, WorkerError, load_set, load_sets, run
from edge_stt.commands.bench import choose_variants
from edge_stt.endpoint_bench import speech_end
from edge_stt.engines import ENGINES, EngineInfo, Reading, StreamEvent, Variant
from edge_stt.errors import DataError, UsageError
from edge_stt.features import Floats
from edge_stt.figures import (
    Row,
    Scored,
    check_comparable,
    clip_data,
    compare_runs,
    cut_off_warnings,
    read_run,
    tabulate,
)
from edge_stt.plot import pareto_front
from edge_stt.stage_clock import StageClock

from .conftest import DATA, DEMO, ROOT

pytest.importorskip("jiwer", reason="needs the bench extra")

CLIPS = [DEMO, *sorted((ROOT / "tests" / "data").glob("*.opus"))]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of LJ Speech that come along, as a manifest."""
    path = tmp_path_factory.mktemp("corpus") / "dev.jsonl"
    lines = [
        {"audio_filepath": str(clip), "text": clip.with_suffix(".txt").read_text(encoding="utf-8"), "speaker": "LJ"}
        for clip in CLIPS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def bench_output(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the command with everything written, shared by the tests that look at it."""
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    folder = tmp_path_factory.mktemp("out") / "new"
    done = bench(manifest, "--threads", 1, "--threads", 2, "--repeats", 2, "--output", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| set |")
    return folder


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


# --- measuring ------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_run_hold_together(bench_output: Path, manifest: Path) -> None:
    data = json.loads((bench_output / "bench.json").read_text(encoding="utf-8"))
    assert [(r["threads"], r["mode"]) for r in data["results"]] == [(1, "offline"), (2, "offline")]
    seconds = sum(len(read_audio(clip)) for clip in CLIPS) / 16_000
    for row in data["results"]:
        assert row["hours"] == pytest.approx(seconds / 3600, rel=1e-3)
        assert row["clips"] == len(CLIPS)
        edits = row["substitutions"] + row["deletions"] + row["insertions"]
        assert row["wer"] == pytest.approx(100 * edits / row["words"])
        assert row["wer_low"] <= row["wer"] <= row["wer_high"]
        assert row["drawn"] == "clips"
        parts = row["rtf_features"] + row["rtf_model"] + row["rtf_decoder"]
        assert 0.5 * row["rtf"] < parts < 1.1 * row["rtf"]  # medians of parts need not add up exactly
        assert min(row["rtf_features"], row["rtf_model"], row["rtf_decoder"]) > 0
        assert 0 < row["latency_p50"] <= row["latency_p95"] <= row["latency_p99"]
        assert row["latency_p99"] <= max(c["elapsed"] for c in row["clip_results"]) + 1e-5
        assert 30 < row["peak_rss_mb"] < 200
        assert 0 < row["load_seconds"] < 60
        assert row["same_text"] is True
        assert row["first_partial_p50"] is None
    one, two = data["results"]
    assert [c["hypothesis"] for c in one["clip_results"]] == [c["hypothesis"] for c in two["clip_results"]]
    assert data["machine"]["cores"] >= 1
    assert "edge-stt" in data["summary"]
    assert "\n" not in data["summary"]


def test_the_texts_are_those_of_transcribe(bench_output: Path) -> None:
    from edge_stt import load_model
    from edge_stt.text import normalise_text

    data = json.loads((bench_output / "bench.json").read_text(encoding="utf-8"))
    model = load_model()
    expected = [normalise_text(model.transcribe(clip).text) for clip in CLIPS]
    assert [c["hypothesis"] for c in data["results"][0]["clip_results"]] == expected


def test_cpu_time_and_memory_are_those_of_the_process() -> None:
    """The worker's own account against the kernel's, asked from outside."""
    with Worker(Variant()) as worker:
        worker.ask({"path": str(DEMO)})
        fields = Path(f"/proc/{worker._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{worker._process.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        end = worker.finish()
    assert end["cpu"] == pytest.approx(ticks, abs=0.05)
    assert end["peak_rss"] == pytest.approx(peak, rel=0.05)


def test_memory_is_not_that_of_the_parent() -> None:
    """A parent that has used much memory must not make its workers look fat, as ``ru_maxrss`` would."""
    ballast = np.ones(60_000_000)  # 480 MB, all touched
    with Worker(Variant()) as worker:
        peak = worker.finish()["peak_rss"]
    assert ballast[-1] == 1
    assert peak < 200


def test_every_set_is_measured(manifest: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(manifest.read_text().splitlines()[0] + "\n")
    sets = [load_set(manifest), load_set(other)]
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    results = tabulate(run(sets, [Variant(decoder="greedy"), Variant(decoder="beam")], 1, count), sets)
    assert [(s.row.set, s.row.decoder.split()[0]) for s in results] == [
        (sets[0].name, "greedy"),
        (sets[0].name, "beam"),
        (sets[1].name, "greedy"),
        (sets[1].name, "beam"),
    ]
    assert calls == 2 * (len(CLIPS) + 1)
    assert results[2].row.wer_low is None  # one clip has no interval


def test_a_limit_takes_clips_from_all_over(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    items = [{"audio_filepath": "a.wav", "text": "x", "id": str(i)} for i in range(100)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    found = load_set(tmp_path / "m.jsonl", 4)
    assert [c.id.split("/")[1] for c in found.clips] == ["0", "25", "50", "75"]
    assert len({c.speaker for c in found.clips}) == 4  # unnamed speakers are different people


def test_clips_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav", "text": "x"}\n' * 2)
    assert [c.id.split("/")[1] for c in load_set(tmp_path / "m.jsonl").clips] == ["a", "a#2"]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_an_unreadable_clip_is_left_out_for_all(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"not audio at all")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"audio_filepath": "junk.wav", "text": "nothing"}\n' + manifest.read_text())
    done = bench(broken, "--json", "--threads", 1, "--threads", 2, "--repeats", 1)
    assert done.returncode == 1
    assert done.stderr.count("junk.wav") == 1
    assert "broken.jsonl:1" in done.stderr
    assert [json.loads(line)["clips"] for line in done.stdout.splitlines()] == [len(CLIPS)] * 2


def test_a_set_without_a_readable_clip_does_not_stop_the_others(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    (tmp_path / "junk.wav").write_bytes(b"not audio at all")
    (tmp_path / "junk.jsonl").write_text('{"audio_filepath": "junk.wav", "text": "nothing"}\n')
    done = bench(tmp_path / "junk.jsonl", manifest, "--repeats", 1, "--json", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert [json.loads(line)["set"] for line in done.stdout.splitlines()] == [load_set(manifest).name]
    assert done.stderr.count(f"no clip of {load_set(tmp_path / 'junk.jsonl').name} can be read") == 1
    data = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert any("no clip of" in failure for failure in data["failures"])
    assert len(data["results"]) == 1


def test_no_readable_clip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"not audio at all")
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "junk.wav", "text": "nothing"}\n')
    done = bench(tmp_path / "m.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no clip of" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "no clips"),
        ('{"audio_filepath": "gone.wav", "text": "x"}\n{}\n', "gone.wav (and 1 more)"),
        ('{"audio_filepath": "m.jsonl", "text": "…"}\n', "no clip has words"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "m.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_set(tmp_path / "m.jsonl")
    assert text in str(caught.value)


def test_a_variant_that_breaks_does_not_stop_the_others(manifest: Path) -> None:
    done = bench(manifest, "--json", "--repeats", 1, "--model", DATA, "--model", ROOT / "edge_stt/models/default")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "edge-stt data 1 thread offline" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_dies_is_reported() -> None:
    with Worker(Variant()) as worker:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(WorkerError, match=r"died \(exit status -9\)"):
            worker.ask({"path": str(DEMO)})


def test_no_process_is_left_behind(manifest: Path) -> None:
    """Interrupted in the middle, the command takes its workers with it."""
    command = [sys.executable, "-m", "edge_stt.cli", "bench", str(manifest), "--repeats", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def children() -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == process.pid:
                found.append(int(stat.parent.name))
        return found

    deadline = time.monotonic() + 30
    while not (workers := children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)
    workers = children()
    assert workers
    process.send_signal(2)
    assert process.wait(timeout=20) == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--mode", "sideways"], 2, "unknown mode 'sideways'"),
        (["--engine", "siri"], 2, "unknown engine 'siri'"),
        (["--threads", "0"], 2, "--threads"),
        (["--compare", "gone.json"], 1, "gone.json"),
        (["--decoder", "magic", "--repeats", "1"], 2, "unknown decoder 'magic'"),
        (["--decoder", "lexcon", "--output", "/proc/none"], 2, "did you mean 'lexicon'?"),
    ],
)
def test_wrong_calls(arguments: list[str], code: int, text: str) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_results_that_cannot_be_written_are_refused_before_measuring(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (
        ["--output", tmp_path / "file"],
        ["--errors", tmp_path],
        ["--errors", tmp_path / "no" / "e.html"],
    ):
        done = bench(manifest, "--repeats", 100_000, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot write" in done.stderr
        assert "Traceback" not in done.stderr


def test_names_that_are_not_utf8(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"corpus-\xff")
    folder.mkdir()
    (folder / "dev.jsonl").write_text(manifest.read_text().splitlines()[0] + "\n")
    done = bench(folder / "dev.jsonl", "--repeats", 1, "--output", folder / "out", "--errors", folder / "e.html")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "out" / "bench.json").read_text(encoding="utf-8"))["results"][0]["clips"] == 1


def test_sets_of_the_same_name_are_numbered(manifest: Path, tmp_path: Path) -> None:
    sets = load_sets([manifest, manifest, manifest])
    assert [s.name.removeprefix(sets[0].name) for s in sets] == ["", " #2", " #3"]


# --- choosing -------------------------------------------------------------------------------------------------------


def test_all_combinations_are_measured_once() -> None:
    models = [Path("a"), Path("b")]
    variants, notes = choose_variants(
        models, ["greedy", "beam"], [1, 2], ["offline", "stream"], ["whisper", "whisper=x"]
    )
    ours = [v for v in variants if v.engine == "edge-stt"]
    assert len(ours) == len(set(ours)) == 16
    theirs = [v for v in variants if v.engine == "whisper"]
    assert [(v.model, v.threads, v.mode, v.decoder) for v in theirs] == [
        (None, 1, "offline", None),
        (None, 2, "offline", None),
        ("x", 1, "offline", None),
        ("x", 2, "offline", None),
    ]
    assert notes == ["whisper is measured offline only"] * 2
    with pytest.raises(UsageError):
        choose_variants(None, None, None, None, ["nonsense=x"])


def test_without_a_manifest_the_demo_clip_is_measured() -> None:
    done = bench("--json", "--repeats", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["set"] == "demo clip"


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "edge-stt"])
def test_an_engine_reads_the_clips_or_says_what_is_missing(name: str) -> None:
    sets = [load_demo()]
    done = run(sets, [Variant(name)], 1)
    if importlib.util.find_spec(ENGINES[name].module) is None:
        assert done.outcomes == []
        assert "pip install" in done.failures[0]
        return
    if done.failures:  # installed, but its model has to be given
        assert "--engine" in done.failures[0] or "cannot be loaded" in done.failures[0]
        pytest.skip(done.failures[0])
    (result,) = tabulate(done, sets)
    assert result.row.wer < 80
    assert result.row.size_mb > 1


def load_demo() -> TestSet:
    from edge_stt.commands.bench import demo_set

    return demo_set()


# --- streaming ------------------------------------------------------------------------------------------------------


def test_revised_words() -> None:
    def events(*texts: str) -> list[tuple[float, bool, str]]:
        return [(0.0, text.startswith("!"), text.removeprefix("!")) for text in texts]

    assert revised_words(events("the", "the cat", "the cat sat", "!the cat sat")) == 0
    assert revised_words(events("the", "a cat", "a cat sat", "!a mat sat")) == 3
    assert revised_words(events("go", "go home", "!go")) == 1
    assert revised_words(events("go", "!go", "home", "!home")) == 0


def test_the_bounds_of_speech() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1e-4, 48_000).astype(np.float32)
    samples[16_000:32_000] += np.sin(np.arange(16_000) * 0.2).astype(np.float32) * 0.3
    onset, end = speech_bounds(samples)
    assert onset == pytest.approx(1.0, abs=0.02)
    assert end == pytest.approx(2.0, abs=0.02)
    assert speech_bounds(np.zeros(16_000, np.float32)) == (0.0, 1.0)
    assert speech_bounds(np.zeros(100, np.float32)) == (0.0, 100 / 16_000)
    assert speech_end(samples) == round(end * 16_000)  # one definition for all that is measured
    assert speech_end(np.zeros(100, np.float32)) == 100


class Scripted:
    """An engine and its stream: shows a text as soon as so many seconds were heard, or at the end what is left."""

    info = EngineInfo("", "", 0)

    def __init__(self, *script: tuple[float, StreamEvent]) -> None:
        self.clock = StageClock()
        self._script = list(script)
        self._heard = 0.0

    def transcribe(self, samples: Floats) -> Reading:
        raise NotImplementedError

    def stream(self) -> Scripted:
        return self

    def accept(self, samples: Floats) -> list[StreamEvent]:
        self._heard += len(samples) / 16_000
        return self._take(self._heard + 1e-6)

    def finish(self) -> list[StreamEvent]:
        return self._take(100.0)

    def _take(self, until: float) -> list[StreamEvent]:
        due = [event for at, event in self._script if at <= until]
        self._script = [(at, event) for at, event in self._script if at > until]
        return due


def test_an_utterance_that_is_cut_off_has_no_latency() -> None:
    samples = np.zeros(80_000, np.float32)
    samples[16_000:64_000] = 0.3 * np.sin(np.arange(48_000) * 0.2).astype(np.float32)  # speech from 1 s to 4 s

    def measured(*script: tuple[float, StreamEvent]) -> tuple[float | None, bool]:
        found = measure_stream(Scripted(*script), samples)
        return found["final"], found["cut_off"]

    early, late = StreamEvent(True, "turn"), StreamEvent(True, "the light on")
    partial = StreamEvent(False, "the")
    assert measured((2.0, early)) == (None, True)
    assert measured((2.0, early), (3.0, partial)) == (None, False)  # told before it had found the end
    assert measured((2.0, early), (99.0, late)) == (None, False)
    assert measured() == (None, False)
    for script in ([(4.8, late)], [(2.0, early), (4.8, late)], [(2.0, early), (3.0, partial), (4.8, late)]):
        final, cut_off = measured(*script)
        assert final == pytest.approx(0.8, abs=0.05)
        assert not cut_off
    final, cut_off = measured((2.0, early), (6.0, late))  # waited for after the clip
    assert final == pytest.approx(2.0, abs=0.05)
    assert not cut_off


@pytest.fixture(scope="module")
def streamed(manifest: Path) -> list[Scored]:
    sets = [load_set(manifest)]
    done = run(sets, [Variant(mode="stream"), Variant()], 2)
    assert not done.failures
    return tabulate(done, sets)


def test_streaming_is_measured_at_the_pace_of_speech(streamed: list[Scored]) -> None:
    row, offline = streamed[0].row, streamed[1].row
    assert (row.mode, offline.mode) == ("stream", "offline")
    # A first word cannot be shown before it is said; a final needs the silence the endpoint waits for (0.8 s).
    assert 0.1 < row.first_partial_p50 <= row.first_partial_p95 < 3.0  # type: ignore[operator]
    assert 0.7 < row.final_p50 <= row.final_p95 < 2.5  # type: ignore[operator]
    assert 0.0 < row.flush_p50 < 0.3  # type: ignore[operator]
    assert (row.cut_off, offline.cut_off) == (0, None)
    assert row.revised_words is not None
    assert row.revised_words >= 0.0
    assert row.latency_p50 is None
    assert offline.final_p50 is None
    assert abs(row.wer - offline.wer) < 40  # the running mean is not that of the whole clip, but near


def test_cut_off_utterances_are_counted_and_shown(streamed: list[Scored]) -> None:
    assert cut_off_warnings(streamed) == []
    cut = replace(streamed[0], row=replace(streamed[0].row, cut_off=2))
    (line,) = cut_off_warnings([*streamed, cut])
    assert f"2 of {len(CLIPS)} clips cut off" in line


def test_a_streamed_text_is_that_of_the_streaming_recogniser(streamed: list[Scored]) -> None:
    from edge_stt import load_model
    from edge_stt.streaming import Final, StreamingTranscriber
    from edge_stt.text import normalise_text

    stream = StreamingTranscriber(load_model())
    samples = np.concatenate([read_audio(DEMO), np.zeros(32_000, np.float32)])
    events = [*stream.accept_audio(samples), *stream.finish()]
    text = " ".join(e.text for e in events if isinstance(e, Final))
    assert streamed[0].scores[0].hypothesis == normalise_text(text)


# --- reports --------------------------------------------------------------------------------------------------------


def test_all_formats_say_the_same(bench_output: Path) -> None:
    data = json.loads((bench_output / "bench.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((bench_output / "bench.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(row["wer"]) for row in rows] == [r["wer"] for r in data["results"]]
    markdown = (bench_output / "bench.md").read_text(encoding="utf-8")
    heads = [cell.strip() for cell in markdown.splitlines()[0].strip("|").split("|")]
    cells = [cell.strip() for cell in markdown.splitlines()[2].strip("|").split("|")]
    assert len(heads) == len(cells)
    assert cells[heads.index("WER %")] == f"{data['results'][0]['wer']:.1f}"
    assert "first partial p50 / p95, ms" not in heads  # nothing was streamed
    assert "edge-stt-english-1" in markdown


def test_the_picture_is_one(bench_output: Path) -> None:
    png = (bench_output / "bench.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert min(width, height) > 400
    root = ET.fromstring((bench_output / "bench.svg").read_text(encoding="utf-8"))
    texts = " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "edge-stt, 2 threads" in texts
    assert "Pareto front" in texts
    assert "RTF" in texts


def test_the_pareto_front() -> None:
    assert pareto_front([(1.0, 9.0), (2.0, 5.0), (3.0, 7.0), (4.0, 1.0)]) == [0, 1, 3]
    assert pareto_front([(1.0, 5.0), (1.0, 4.0), (2.0, 4.0)]) == [1]
    assert pareto_front([(2.0, 2.0)]) == [0]


def test_a_stage_is_charged_for_its_own_time_alone() -> None:
    class Work:
        def outer(self) -> None:
            time.sleep(0.02)
            self.inner()

        def inner(self) -> None:
            time.sleep(0.05)

    clock = StageClock()
    clock.watch(Work, "outer", "outer")
    clock.watch(Work, "inner", "inner")
    Work().outer()
    assert clock.seconds["outer"] == pytest.approx(0.02, abs=0.015)
    assert clock.seconds["inner"] == pytest.approx(0.05, abs=0.015)
    clock.reset()
    assert clock.seconds == {"outer": 0.0, "inner": 0.0}


# --- comparing ------------------------------------------------------------------------------------------------------


def test_a_run_equals_itself(bench_output: Path, manifest: Path) -> None:
    done = bench(manifest, "--repeats", 1, "--compare", bench_output / "bench.json")
    assert done.returncode == 0, done.stderr
    assert "+0.00 points" in done.stdout
    assert "no difference" in done.stdout


def test_what_has_nothing_in_common_is_refused_before_measuring(bench_output: Path, tmp_path: Path) -> None:
    done = bench("--repeats", 100_000, "--compare", bench_output / "bench.json", "--output", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing to compare" in done.stderr


def test_what_can_be_compared_is_known_before(bench_output: Path, manifest: Path) -> None:
    data, sets = read_run(bench_output / "bench.json"), [load_set(manifest)]
    check_comparable(data, sets, [Variant(mode="stream"), Variant()])
    for variant in (Variant(mode="stream"), Variant(threads=3), Variant("vosk")):
        with pytest.raises(DataError, match="nothing to compare"):
            check_comparable(data, sets, [variant])
    others = replace(sets[0], references=tuple(f"{text} and more" for text in sets[0].references))
    with pytest.raises(DataError, match="nothing to compare"):
        check_comparable(data, [others], [Variant()])


def test_what_cannot_be_compared_after_all_is_shown_all_the_same(
    bench_output: Path, manifest: Path, tmp_path: Path
) -> None:
    """Which decoder a model has by itself is known only once it is loaded."""
    arguments = (manifest, "--repeats", 1, "--decoder", "greedy", "--json", "--output", tmp_path / "out")
    done = bench(*arguments, "--compare", bench_output / "bench.json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["clips"] == len(CLIPS)
    assert "nothing to compare" in done.stderr
    data = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert len(data["results"]) == 1
    assert "nothing to compare" in data["failures"][0]


def test_one_clip_is_too_few_for_a_verdict() -> None:
    sets = [load_demo()]
    (now,) = tabulate(run(sets, [Variant(decoder="greedy")], 1), sets)
    old = {"results": [{**asdict(now.row), "clip_results": clip_data(now)}]}
    counts = now.scores[0].words
    worse = replace(now.scores[0], words=replace(counts, substitutions=counts.substitutions + 9))
    (change,) = compare_runs(old, [replace(now, scores=[worse])])
    assert change.points > 0
    assert change.verdict == "too few to tell"


def test_a_regression_fails_and_an_improvement_does_not(manifest: Path, tmp_path: Path) -> None:
    """The earlier run made hopeless: everything now is better. And made perfect: worse, on texts read backwards."""
    items = [json.loads(line) for line in 2 * manifest.read_text().splitlines()]  # enough for a verdict
    for item in items:
        item["text"] = " ".join(reversed(item["text"].split()))
    backwards = tmp_path / manifest.name
    backwards.write_text("".join(json.dumps(item) + "\n" for item in items))
    done = bench(backwards, "--repeats", 1, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    for name, substitutions in (("hopeless", 200), ("perfect", 0)):
        for row in data["results"]:
            for clip in row["clip_results"]:
                clip["words"] = {"units": clip["words"]["units"], "substitutions": substitutions}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    done = bench(backwards, "--repeats", 1, "--compare", tmp_path / "hopeless.json")
    assert done.returncode == 0, done.stderr
    assert "better" in done.stdout
    done = bench(backwards, "--repeats", 1, "--compare", tmp_path / "perfect.json")
    assert done.returncode == 1
    assert "worse by more than 0 points" in done.stderr
    done = bench(backwards, "--repeats", 1, "--compare", tmp_path / "perfect.json", "--threshold", 500)
    assert done.returncode == 0, done.stderr


def test_only_the_same_clips_are_compared(bench_output: Path, streamed: list[Scored]) -> None:
    data = read_run(bench_output / "bench.json")
    scored = streamed[1:]
    data["results"][0]["clip_results"][0]["reference"] += " and more"
    assert [c.clips for c in compare_runs(data, scored)] == [len(CLIPS) - 1]
    for row in data["results"]:
        row["set"] = "another"
    with pytest.raises(DataError, match="nothing to compare"):
        compare_runs(data, scored)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 99, "results": []}', "[" * 100_000, '{"format": 1, "results": [{}]}']
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(DataError):
        read_run(tmp_path / "old.json")


def test_every_figure_of_a_row_is_explained_in_the_docs() -> None:
    """docs/benchmark.md has a word about each column of the CSV."""
    from dataclasses import fields

    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    missing = [f.name for f in fields(Row) if f"`{f.name}`" not in page]
    assert not missing


def test_long_silence_and_an_empty_clip_can_be_measured(tmp_path: Path) -> None:
    for name, samples in (("silence", np.zeros(160_000, np.float32)), ("empty", np.zeros(0, np.float32))):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 16_000, format="WAV")
        (tmp_path / f"{name}.wav").write_bytes(buffer.getvalue())
    lines = [{"audio_filepath": f"{n}.wav", "text": t} for n, t in (("silence", "one two"), ("empty", ""))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = bench(tmp_path / "m.jsonl", "--repeats", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 2
