"""Turn corpora into a prepared set: checked clips and their log-mel, ready to be read in any order.

A prepared set is a folder with

* ``clips.jsonl``: one line a clip kept: id, corpus, speaker, duration, normalised text (empty where nobody speaks);
* ``<variant>.f16`` and ``<variant>.npy``: log-mel of all clips one after the other (float16 ``[frames, n_mels]``, not
  normalised) and the first frame of each clip (int64 ``[clips + 1]``). ``plain`` is the recording itself, ``speed-0.9``
  is played slower, ``room-0`` has a random speed, room and noise;
* ``statistics.npz``: mean and standard deviation of each mel bin;
* ``report.json``: hours per corpus and speaker, and every clip left out with the reason. Without it a set is not
  complete.

All is written into a hidden folder beside, which takes its place when it is whole: what fails leaves nothing.

Reading is by memory map, so a set may be larger than memory.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self
from zipfile import BadZipFile

import numpy as np
from rich.console import Console
from rich.progress import track

from edge_stt.audio import read_audio
from edge_stt.errors import AudioError, DataError, reason
from edge_stt.features import FeatureStatistics, Floats, FrontEndConfig, log_mel
from edge_stt.interrupts import SIGNALS, Interrupted, Interrupts
from edge_stt.language import Language, load_language
from edge_stt.text import Normaliser

from .augment import add_noise, add_room, babble, band_limit, change_speed, room_response
from .data import Clip, read_corpus

console = Console(stderr=True)
REPORT = "report.json"


@dataclass(frozen=True)
class PrepareConfig:
    """Limits (seconds, ratios) on what is kept, and the variants that are computed beside the plain recording."""

    min_seconds: float = 0.3
    max_seconds: float = 24.0
    max_characters_per_second: float = 25.0
    speeds: tuple[float, ...] = (0.9, 1.1)
    room_copies: int = 1
    room_share: float = 0.7  # of the noisy copies, how many are in a room
    band_share: float = 0.15  # of the noisy copies, how many come through a telephone or a cheap microphone
    snr_db: tuple[float, float] = (3.0, 25.0)
    babble_share: float = 0.15  # of the noisy copies, how many have people talking for noise; 10 dB more of speech
    babble_voices: int = 200  # clips, of all corpora, that babble is mixed from
    room_responses: int = 120
    seed: int = 1


@dataclass(frozen=True)
class PreparedClip:
    """A clip of a prepared set; ``text`` is normalised, ``duration`` in seconds."""

    id: str
    corpus: str
    speaker: str
    duration: float
    text: str


def _variants(config: PrepareConfig) -> list[str]:
    return ["plain", *(f"speed-{s}" for s in config.speeds), *(f"room-{i}" for i in range(config.room_copies))]


class _Worker:
    """Computes all variants of a clip. One lives in each process; it holds the rooms and noises."""

    def __init__(
        self, config: PrepareConfig, front_end: FrontEndConfig, noises: Sequence[Path], voices: Sequence[Path]
    ) -> None:
        self.config, self.front_end = config, front_end
        rng = np.random.default_rng(config.seed)
        self.rooms = [room_response(rng) for _ in range(config.room_responses if config.room_copies else 0)]
        self.noises = [read_audio(path) for path in noises] if config.room_copies else []
        self.voices = list(_readable(voices)) if config.room_copies else []

    def __call__(self, clip: Clip) -> tuple[str | None, float, dict[str, Any]]:
        """Reason to leave the clip out (or None), its seconds, and the float16 frames of each variant."""
        try:
            samples = read_audio(clip.path)
        except AudioError as error:
            return str(error), 0.0, {}
        if not clip.text:
            samples = samples[: int(self.config.max_seconds * self.front_end.sample_rate)]
        seconds = len(samples) / self.front_end.sample_rate
        if reason := self._unusable(clip, samples, seconds):
            return reason, seconds, {}
        audio = {"plain": samples}
        for speed in self.config.speeds:
            audio[f"speed-{speed}"] = change_speed(samples, speed)
        for copy in range(self.config.room_copies):
            # Seeded by the clip, so that the set is the same whatever the number of processes.
            audio[f"room-{copy}"] = self._noisy(samples, np.random.default_rng([zlib.crc32(clip.id.encode()), copy]))
        return None, seconds, {name: log_mel(x, self.front_end).astype(np.float16) for name, x in audio.items()}

    def _unusable(self, clip: Clip, samples: Floats, seconds: float) -> str | None:
        limits = self.config
        if not limits.min_seconds <= seconds <= limits.max_seconds:
            return f"{seconds:.2f} s long; {limits.min_seconds} to {limits.max_seconds} s are used"
        return self._unusable_speech(clip, samples, seconds) if clip.text else None

    def _unusable_speech(self, clip: Clip, samples: Floats, seconds: float) -> str | None:
        if clip.duration and abs(clip.duration - seconds) > max(0.1, 0.05 * seconds):
            return f"the manifest says {clip.duration:.2f} s, the file has {seconds:.2f} s"
        peak = float(np.abs(samples).max())
        if peak < 1e-3:
            return "silence"
        if np.mean(np.abs(samples) >= 0.999) > 0.02:
            return "clipped: more than 2 % of the samples are at full scale"
        if len(clip.text) > self.config.max_characters_per_second * seconds:
            return f"{len(clip.text)} characters in {seconds:.2f} s cannot be spoken"
        return None

    def _noisy(self, samples: Floats, rng: np.random.Generator) -> Floats:
        samples = change_speed(samples, float(rng.choice([0.95, 1.0, 1.05])))
        if self.rooms and rng.random() < self.config.room_share:
            samples = add_room(samples, self.rooms[int(rng.integers(len(self.rooms)))])
        if len(self.voices) > 1 and rng.random() < self.config.babble_share:
            chosen = rng.choice(len(self.voices), size=min(len(self.voices), int(rng.integers(3, 8))), replace=False)
            noise = babble([self.voices[i] for i in chosen], len(samples), rng)
            samples = add_noise(samples, noise, 10.0 + float(rng.uniform(*self.config.snr_db)), rng)
        elif self.noises:
            noise = self.noises[int(rng.integers(len(self.noises)))]
            samples = add_noise(samples, noise, float(rng.uniform(*self.config.snr_db)), rng)
        if rng.random() < self.config.band_share:
            samples = band_limit(samples, float(rng.uniform(50, 350)), float(rng.uniform(3_000, 7_000)))
        return samples


@lru_cache(maxsize=1)
def _worker(
    config: PrepareConfig, front_end: FrontEndConfig, noises: tuple[Path, ...], voices: tuple[Path, ...]
) -> _Worker:
    return _Worker(config, front_end, noises, voices)


def _readable(paths: Iterable[Path]) -> Iterator[Floats]:
    """Samples of the files that can be read; what is wrong with the others is said when their turn comes."""
    for path in paths:
        try:
            yield read_audio(path)
        except AudioError:
            continue


def _work(
    job: tuple[Clip, PrepareConfig, FrontEndConfig, tuple[Path, ...], tuple[Path, ...]],
) -> tuple[str | None, float, dict[str, Any]]:
    clip, *settings = job
    return _worker(*settings)(clip)


def prepare(
    corpora: Iterable[Path],
    out: Path,
    config: PrepareConfig | None = None,
    front_end: FrontEndConfig | None = None,
    noises: Sequence[Path] = (),
    processes: int = 2,
    strict: bool = False,
    language: Language | None = None,
    no_speech: Sequence[Path] = (),
) -> dict[str, Any]:
    """Prepare the clips of ``corpora`` (see `read_corpus`) in the folder ``out``; returns the report.

    Texts are normalised as ``language`` says, English without one. ``no_speech`` are corpora in which nobody speaks: a
    model learns to write nothing for them, whatever text they have. Of long ones the first ``max_seconds`` are taken.

    Raises `DataError` when nothing is usable, or, with ``strict``, at the first clip that is not, or when the set
    cannot be written.
    """
    config, front_end = config or PrepareConfig(), front_end or FrontEndConfig()
    language = language or load_language("english")
    problems: list[str] = []

    def report(problem: str) -> None:
        if strict:
            raise DataError(problem)
        problems.append(problem)

    found = (clip for path in corpora for clip in read_corpus(path, report))
    clips = list(_checked_texts(found, language.normaliser, report))
    clips += [replace(clip, text="") for path in no_speech for clip in read_corpus(path, report)]
    names = _variants(config)
    _check_place(out)
    rng = np.random.default_rng(config.seed)
    spoken = [clip for clip in clips if clip.text]
    chosen: list[int] = rng.permutation(len(spoken))[: config.babble_voices].tolist() if config.babble_share else []
    voices = tuple(spoken[i].path for i in chosen)
    jobs = [(clip, config, front_end, tuple(noises), voices) for clip in clips]
    seconds_of: dict[str, float] = defaultdict(float)
    speakers: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        with Interrupts() as interrupts, _new_set(out, names) as folder:
            sums = _Sums(front_end.n_mels)
            with _SetWriter(folder, names) as writer, _pool(processes) as pool:
                results = pool.map(_work, jobs, chunksize=8)
                quiet = not console.is_terminal
                for clip, (reason, seconds, variants) in zip(
                    clips,
                    track(interrupts.watch(results), "Preparing", len(jobs), console=console, disable=quiet),
                    strict=True,
                ):
                    if reason:
                        report(f"{clip.source}: {reason}")
                        continue
                    if clip.text:
                        sums.add(variants["plain"])
                    kept = PreparedClip(clip.id, clip.corpus, clip.speaker, round(seconds, 3), clip.text)
                    writer.add(kept, variants)
                    seconds_of[clip.corpus] += seconds
                    speakers[clip.corpus][clip.speaker] += 1
            if not seconds_of:
                raise DataError(f"no usable clip: {problems[0] if problems else 'the corpora are empty'}")
            statistics = sums.statistics()
            np.savez(folder / "statistics.npz", mean=statistics.mean, std=statistics.std)
            summary = {
                "hours": {corpus: round(seconds / 3600, 3) for corpus, seconds in seconds_of.items()},
                "clips": {corpus: sum(counts.values()) for corpus, counts in speakers.items()},
                "speakers": {corpus: len(counts) for corpus, counts in speakers.items()},
                "variants": names,
                "front_end": asdict(front_end),
                "config": asdict(config),
                **({"language": packaged} if (packaged := language.to_package()) else {}),
                "left_out": problems,
            }
            (folder / REPORT).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    except Interrupted as interrupted:
        raise SystemExit(128 + interrupted.number) from interrupted
    except BrokenProcessPool as error:
        raise DataError(
            "a process that prepares clips was killed, perhaps for want of memory: try again with --processes 1"
        ) from error
    except OSError as error:
        raise DataError(f"cannot write the set {out}: {error.strerror or error}") from error
    return summary


def _check_place(out: Path) -> None:
    """Raise `DataError` where a set cannot lie: its ``clips.jsonl`` would replace that of some corpus."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is no folder; name one for the set")
    if not (out / "clips.jsonl").exists():
        return
    try:
        with (out / "clips.jsonl").open(encoding="utf-8") as clips:
            if line := clips.readline():
                PreparedClip(**json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{out} has a clips.jsonl that is none of a prepared set; name another folder for the set"
        ) from error


@contextmanager
def _new_set(out: Path, names: Iterable[str]) -> Iterator[Path]:
    """A folder beside ``out`` to write a set into; it becomes ``out`` when all is written, and is gone if that fails.

    A set that is there already is none any more from the beginning: there may be no room for two. Its files are
    unlinked, not emptied, so that a run which is reading them goes on with what it began with.
    """
    files = [REPORT, "clips.jsonl", "statistics.npz", *(f"{name}.{kind}" for name in names for kind in ("f16", "npy"))]
    for name in files:
        (out / name).unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = work / "set"  # with the usual permissions, other than `work`
        folder.mkdir()
        yield folder
        if not out.exists():
            folder.rename(out)
            return
        for name in reversed(files):  # the report last
            (folder / name).replace(out / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _SetWriter:
    """Writes clips and their frames as they come; the first frames of clips at the end."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._offsets: dict[str, list[int]] = {name: [0] for name in names}
        self._stack = ExitStack()
        self._frames = {name: self._stack.enter_context((folder / f"{name}.f16").open("wb")) for name in names}
        self._index = self._stack.enter_context((folder / "clips.jsonl").open("w", encoding="utf-8"))

    def add(self, clip: PreparedClip, variants: dict[str, Any]) -> None:
        """One clip with its frames in each variant."""
        for name, offsets in self._offsets.items():
            self._frames[name].write(variants[name].tobytes())
            offsets.append(offsets[-1] + len(variants[name]))
        self._index.write(json.dumps(asdict(clip)) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for name, offsets in self._offsets.items():
            np.save(self._folder / f"{name}.npy", np.array(offsets, dtype=np.int64))


def _leave_signals() -> None:
    """A process of the pool ends by any signal but Ctrl-C; what is ignored, as by nohup, stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that leave Ctrl-C to this one; when something fails, clips that nobody works on yet are dropped."""
    pool = ProcessPoolExecutor(processes, initializer=_leave_signals)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _checked_texts(clips: Iterable[Clip], normaliser: Normaliser, report: Any) -> Iterable[Clip]:
    """Clips with their text normalised; texts without words, letters of other languages, repeated ids are reported."""
    seen: set[str] = set()
    for clip in clips:
        problem, text = normaliser.problem(clip.text), normaliser(clip.text)
        if problem:
            report(f"{clip.source}: {problem}")
        elif clip.id in seen:
            report(f"{clip.source}: {clip.id} is a duplicate")
        else:
            seen.add(clip.id)
            yield Clip(clip.id, clip.corpus, clip.speaker, clip.path, clip.duration, text, clip.source)


class _Sums:
    """Mean of each bin, and its standard deviation around the mean of the clip."""

    def __init__(self, mels: int) -> None:
        self.total, self.within, self.count = np.zeros(mels), np.zeros(mels), 0

    def add(self, frames: Any) -> None:
        x = frames.astype(np.float64)
        self.total += x.sum(axis=0)
        self.within += ((x - x.mean(axis=0)) ** 2).sum(axis=0)
        self.count += len(x)

    def statistics(self) -> FeatureStatistics:
        mean, std = self.total / self.count, np.sqrt(self.within / self.count)
        return FeatureStatistics(mean.astype(np.float32), np.maximum(std, 1e-3).astype(np.float32))


def read_description(folder: Path) -> tuple[list[PreparedClip], FrontEndConfig, list[str], FeatureStatistics]:
    """All of a prepared set but its frames: clips, front end, names of variants, statistics.

    Raises `DataError` when it is none.
    """
    try:
        lines = (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with np.load(folder / "statistics.npz") as stats:
            statistics = FeatureStatistics(stats["mean"], stats["std"])
        clips = [PreparedClip(**json.loads(line)) for line in lines]
        return clips, FrontEndConfig(**report["front_end"]), list(report["variants"]), statistics
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{folder} is not a prepared set (make one with `edge-stt train prepare`): {reason(error)}"
        ) from error


def check_language(folder: Path, language: Language) -> None:
    """Raise `DataError` when the set's texts were not normalised as ``language`` says."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    wanted, found = language.to_package(), report.get("language", {})
    if wanted.get("normaliser") != found.get("normaliser"):
        raise DataError(
            f"{folder} was prepared for the language {found.get('name', 'english')}, which is not {language.name} as "
            "it is now: prepare it with --language, or set `language` in the config"
        )


class Described(Protocol):
    """A prepared set or shards, as far as a model must know them."""

    front_end: FrontEndConfig
    statistics: FeatureStatistics
    variants: list[str]


class PreparedSet:
    """A prepared set on disk. ``frames(i, variant)`` is clip i's log-mel, float32 ``[frames, n_mels]``.

    Raises `DataError` where there is none, or its files are not of one another.
    """

    def __init__(self, folder: Path) -> None:
        self.clips, self.front_end, self.variants, self.statistics = read_description(folder)
        self._offsets: dict[str, Any] = {}
        self._frames: dict[str, Any] = {}
        for name in self.variants:
            self._offsets[name], self._frames[name] = self._read_variant(folder, name)

    def _read_variant(self, folder: Path, name: str) -> tuple[Any, Any]:
        """First frame of each clip and the end, int64 ``[clips + 1]``; float16 ``[frames, n_mels]``."""
        try:
            offsets = np.load(folder / f"{name}.npy")
            frames = np.memmap(folder / f"{name}.f16", np.float16, "r").reshape(-1, self.front_end.n_mels)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{folder}: {name} cannot be read ({error}): prepare the set again") from error
        # Otherwise clips would be paired with the texts of others.
        if len(offsets) != len(self.clips) + 1 or offsets[-1] != len(frames):
            raise DataError(
                f"{folder}: clips.jsonl, {name}.npy and {name}.f16 do not belong together: prepare it again"
            )
        return offsets, frames

    def __len__(self) -> int:
        return len(self.clips)

    def frames(self, clip: int, variant: str = "plain") -> Floats:
        """Log-mel of one clip, not normalised."""
        start, end = self._offsets[variant][clip : clip + 2]
        return self._frames[variant][start:end].astype(np.float32)

    def lengths(self, variant: str = "plain") -> Any:
        """Frames of each clip, int64 ``[clips]``."""
        return np.diff(self._offsets[variant])
