"""Accuracy and speed of the very same artefact, in one run: variants measured on the same clips under like conditions.

Each variant has a process of its own, so that CPU time and memory come from the kernel. The processes take turns at
blocks of clips, one working at a time, the order rotating from block to block: a machine that grows warm or busy slows
all of them alike. A first start of the process and a first clip are thrown away; of the repeats the median counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from .byte_streams import printable_path
from .corpora import Clip, read_corpus
from .engines import EngineInfo, Variant
from .errors import DataError, EdgeSttError
from .text import Normaliser, english

BLOCK_CLIPS = 5  # clips a process does before it is another's turn


@dataclass(frozen=True)
class TestSet:
    """Clips that are scored together, with their references as ``normaliser`` leaves them."""

    name: str
    clips: tuple[Clip, ...]
    references: tuple[str, ...]
    normaliser: Normaliser = field(default_factory=english)

    __test__ = False  # not a test case, whatever pytest makes of the name


@dataclass(frozen=True)
class Measured:
    """One clip by one variant: seconds are medians over the repeats.

    ``heard`` are the seconds of audio that were worked on, ``duration`` and in streaming the silence after it;
    ``stages`` are seconds of features, model and decoder where the engine tells. Streaming only: ``first_partial``
    after the onset of speech, ``final`` after its end (None when the engine waited to be told, or ``cut_off`` the
    utterance before its end), ``flush`` for the last words once it was told, and ``revised`` words.
    """

    text: str
    words: tuple[tuple[str, float, float, float], ...]
    duration: float
    heard: float
    elapsed: float
    cpu: float
    stages: dict[str, float]
    first_partial: float | None = None
    final: float | None = None
    flush: float | None = None
    revised: int | None = None
    cut_off: bool = False


@dataclass(frozen=True)
class Outcome:
    """A variant on all sets: ``clips[set][clip]``, None where no variant could read the clip."""

    variant: Variant
    info: EngineInfo
    clips: list[list[Measured | None]]
    load_seconds: float
    peak_rss: float
    cpu_seconds: float
    same_text: bool  # whether the repeats gave the same texts


@dataclass(frozen=True)
class Run:
    """What a run gave. ``failures`` are lines for people: variants that broke, clips that could not be read."""

    outcomes: list[Outcome]
    failures: list[str]


class WorkerError(EdgeSttError):
    """A measuring process could not start, or died."""


class Worker:
    """One measuring process (`edge_stt.bench_worker`), from loading to the end."""

    def __init__(self, variant: Variant) -> None:
        threads = str(variant.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        # The child finds the package where this process found it, installed or not.
        root = str(Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_stt.bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            self.info = EngineInfo(**self.ask(asdict(variant))["ready"])
        except BaseException:
            self.close()
            raise
        self.load_seconds = time.perf_counter() - started

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a line, wait for the answer; raises `WorkerError` for an error and for a process that died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"the measuring process died (exit status {code}): {said}"

    def finish(self) -> dict[str, Any]:
        """No more clips: what the whole process took."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._noise):
            if file is not None:
                with suppress(OSError):  # what was written and not read any more
                    file.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_set(path: Path, limit: int | None = None, normaliser: Normaliser | None = None) -> TestSet:
    """A manifest or corpus; ``limit`` takes that many clips, evenly spread. Raises `DataError` when it is not whole.

    A benchmark that leaves out what it cannot use would be one of another set: better to say so before it begins.
    ``normaliser`` is that of the models' language; without it, English.
    """
    problems: list[str] = []
    clips = list(read_corpus(path, problems.append))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    if not clips:
        raise DataError(f"{path} has no clips")
    if limit is not None and limit < len(clips):
        clips = [clips[i * len(clips) // limit] for i in range(limit)]
    seen: dict[str, int] = {}
    unique = []
    for number, clip in enumerate(clips):
        # An unnamed speaker is taken for somebody else each time (`scoring` knows these numbers and does not call them
        # speakers), a second clip of the same name for another clip.
        speaker = f"{clip.speaker}-{number}" if clip.speaker.endswith("/unknown") else clip.speaker
        seen[clip.id] = seen.get(clip.id, 0) + 1
        name = clip.id if seen[clip.id] == 1 else f"{clip.id}#{seen[clip.id]}"
        unique.append(Clip(name, clip.corpus, speaker, clip.path, clip.duration, clip.text, clip.source))
    normaliser = normaliser or english()
    for clip in unique:
        if normaliser.unknown == "report" and (problem := normaliser.problem(clip.text)):
            raise DataError(f"{clip.source}: {problem}")
    references = tuple(normaliser(clip.text) for clip in unique)
    if not any(references):
        raise DataError(f"{path}: no clip has words in its text")
    name = f"{path.parent.name} {path.stem}".strip() if path.is_file() else path.resolve().name
    return TestSet(printable_path(name), tuple(unique), references, normaliser)


def load_sets(paths: Sequence[Path], limit: int | None = None, normaliser: Normaliser | None = None) -> list[TestSet]:
    """Several sets, those of the same name numbered."""
    sets: list[TestSet] = []
    for path in paths:
        loaded = load_set(path, limit, normaliser)
        same = sum(s.name == loaded.name or s.name.startswith(f"{loaded.name} #") for s in sets)
        sets.append(replace(loaded, name=f"{loaded.name} #{same + 1}") if same else loaded)
    return sets


def run(
    sets: Sequence[TestSet],
    variants: Sequence[Variant],
    repeats: int = 3,
    progress: Callable[[], None] = lambda: None,
) -> Run:
    """Measure all variants on all sets. ``progress`` is called once a clip is done (clips × variants × repeats times).

    A variant that fails is left out and named; a clip that one of them cannot read is left out for all.
    """
    workers: dict[Variant, Worker] = {}
    failures: list[str] = []
    try:
        for variant in variants:
            try:
                Worker(variant).close()  # what is read from disk for the first time is not measured
                workers[variant] = Worker(variant)
                workers[variant].ask({"path": str(sets[0].clips[0].path)})
            except WorkerError as error:
                failures.append(f"{describe(variant)}: {error}")
                if variant in workers:
                    workers.pop(variant).close()
        taken, unreadable = _measure(sets, workers, repeats, failures, progress)
        failures += [
            f"no clip of {test_set.name} can be read"
            for s, test_set in enumerate(sets)
            if all((s, c) in unreadable for c in range(len(test_set.clips)))
        ]
        outcomes = []
        for variant, worker in workers.items():
            try:
                end = worker.finish()
            except WorkerError as error:
                failures.append(f"{describe(variant)}: {error}")
                continue
            clips = [
                [None if (s, c) in unreadable else _medians(taken[variant, s, c]) for c in range(len(test_set.clips))]
                for s, test_set in enumerate(sets)
            ]
            same = all(
                len({m["text"] for m in taken[k]}) == 1 for k in taken if k[0] == variant and k[1:] not in unreadable
            )
            outcomes.append(
                Outcome(variant, worker.info, clips, worker.load_seconds, end["peak_rss"], end["cpu"], same)
            )
        return Run(outcomes, failures)
    finally:
        for worker in workers.values():
            worker.close()


Taken = dict[tuple[Variant, int, int], list[dict[str, Any]]]


def _measure(
    sets: Sequence[TestSet],
    workers: dict[Variant, Worker],
    repeats: int,
    failures: list[str],
    progress: Callable[[], None],
) -> tuple[Taken, set[tuple[int, int]]]:
    """All repeats of all clips in turns; variants that break on the way are taken out of ``workers``."""
    taken: Taken = {}
    unreadable: set[tuple[int, int]] = set()
    items = [(s, c) for s, test_set in enumerate(sets) for c in range(len(test_set.clips))]
    blocks = [items[i : i + BLOCK_CLIPS] for _ in range(repeats) for i in range(0, len(items), BLOCK_CLIPS)]
    for turn, block in enumerate(blocks):
        for variant in _rotated(list(workers), turn):
            for s, c in block:
                progress()
                if (s, c) in unreadable:
                    continue
                clip = sets[s].clips[c]
                try:
                    answer = workers[variant].ask({"path": str(clip.path)})
                except WorkerError as error:
                    failures.append(f"{describe(variant)}: {clip.source}: {error}")
                    workers.pop(variant).close()
                    break
                if "unreadable" in answer:
                    unreadable.add((s, c))
                    failures.append(f"{clip.source}: {answer['unreadable']}")
                else:
                    taken.setdefault((variant, s, c), []).append(answer)
    return taken, unreadable


def _rotated(variants: list[Variant], turn: int) -> list[Variant]:
    first = turn % max(1, len(variants))
    return variants[first:] + variants[:first]


def _medians(repeats: list[dict[str, Any]]) -> Measured:
    first = repeats[0]

    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    cut_off = any(r.get("cut_off", False) for r in repeats)
    return Measured(
        text=first["text"],
        words=tuple((w[0], w[1], w[2], w[3]) for w in first["words"]),
        duration=first["duration"],
        heard=first["heard"],
        elapsed=median(r["elapsed"] for r in repeats),
        cpu=median(r["cpu"] for r in repeats),
        stages={stage: median(r["stages"][stage] for r in repeats) for stage in first["stages"]},
        first_partial=middle(r.get("first_partial") for r in repeats),
        final=None if cut_off else middle(r.get("final") for r in repeats),
        flush=middle(r.get("flush") for r in repeats),
        revised=first.get("revised"),
        cut_off=cut_off,
    )


def describe(variant: Variant) -> str:
    """A variant in a few words."""
    model = Path(variant.model).name if variant.model else ""
    parts = [variant.engine, model, variant.decoder or "", f"{variant.threads} thread{'s'[: variant.threads > 1]}"]
    return " ".join(part for part in [*parts, variant.mode] if part)
