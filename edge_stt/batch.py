"""Many recordings, one after another or in several processes: whatever fails, the rest is done.

A worker process (``python -m edge_stt.batch``) reads JSON lines: first `LoadOptions`, then jobs one at a time; it
answers each with seconds heard on the way and an outcome at the end, or once with why no job can be done.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from .audio import SAMPLE_RATE, stream_audio
from .byte_streams import printable_path, readable_path
from .decoders import check_decoder, choose
from .errors import DecodingError, EdgeSttError, UsageError
from .features import Floats
from .files import write_atomically
from .grammar import Grammar
from .hotwords import DEFAULT_WEIGHT, HotWords
from .interrupts import Interrupted, Interrupts
from .outputs import WRITERS
from .package import ModelPackage
from .recogniser import Segment, Transcriber, Transcript, default_model
from .text import Normaliser

BLOCK_SECONDS = 10.0  # audio between two looks at whether to stop
PATIENCE = 5.0  # seconds that a worker has to stop


@dataclass(frozen=True)
class LoadOptions:
    """What to load, and how to decode. Paths are strings, to travel as JSON; None is the package's own choice."""

    model: str | None = None
    threads: int = 1
    decoder: str | None = None
    beam_width: int | None = None
    lm_weight: float | None = None
    word_insertion_bonus: float | None = None
    hotwords: tuple[str, ...] = ()
    hotword_file: str | None = None
    hotword_weight: float = DEFAULT_WEIGHT
    phrases: str | None = None

    def load(self) -> Transcriber:
        """The transcriber; raises `EdgeSttError` for what is not there or cannot be."""
        self._check()
        package = ModelPackage.load(self.model or default_model())
        phrases = Grammar.from_file(Path(self.phrases)) if self.phrases else None
        config = choose(package, "phrases" if phrases is not None else self.decoder)
        weights = {"lm_weight": self.lm_weight, "word_insertion_bonus": self.word_insertion_bonus}
        given: dict[str, Any] = {name: value for name, value in weights.items() if value is not None}
        if given and config.decoder != "lexicon":
            option = "--" + next(iter(given)).replace("_", "-")
            raise UsageError(f"{option} weighs a language model, which the decoder {config.decoder} does not use")
        if self.beam_width is not None:
            if config.decoder == "greedy":
                raise UsageError("--beam-width is for a search, and the decoder greedy does not search; leave it out")
            given["beam_width"] = self.beam_width
        try:
            config = replace(config, beam=replace(config.beam, **given))
        except DecodingError as error:
            raise UsageError(str(error)) from error
        if self._favours and config.decoder == "greedy":
            raise UsageError("the decoder greedy cannot favour hot words; choose beam or lexicon, or leave them out")
        hot_words = self._hot_words(package.info.normaliser)
        return Transcriber(package, self.threads, decoding=config, hot_words=hot_words, phrases=phrases)

    def _check(self) -> None:
        """Raise `UsageError` for what cannot be, whatever the model."""
        if self.phrases:
            if (self.decoder or self.beam_width) is not None:
                option = "--decoder" if self.decoder is not None else "--beam-width"
                raise UsageError(f"--phrases has a decoder of its own; leave out {option}")
            if self._favours:
                raise UsageError("where only --phrases can be said, hot words make nothing likelier; leave one out")
        elif self.decoder is not None:
            check_decoder(self.decoder)

    @property
    def _favours(self) -> bool:
        return bool(self.hotwords) or self.hotword_file is not None

    def _hot_words(self, normaliser: Normaliser) -> HotWords | None:
        """Those named one by one and those of the file."""
        entries = [(phrase, self.hotword_weight) for phrase in self.hotwords]
        try:
            HotWords(entries).written(normaliser)
        except DecodingError as error:
            raise UsageError(f"--hotword: {error}") from error
        if self.hotword_file is not None:
            listed = HotWords.from_file(Path(self.hotword_file), self.hotword_weight)
            entries += [(" ".join(words), weight) for words, weight in listed.entries.items()]
        return HotWords(entries) if entries else None


@dataclass(frozen=True)
class Job:
    """A recording to read, files to write (format to path), and the format of what is to be shown, if any."""

    path: str
    outputs: dict[str, str] = field(default_factory=dict)
    shown: str | None = None

    @property
    def name(self) -> str:
        """The path as it can be printed."""
        return printable_path(self.path)

    @property
    def recording(self) -> str:
        """The path as results have it."""
        return readable_path(self.path)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: ``error``, or ``shown`` and the seconds of audio and of work. ``warnings`` are lines."""

    error: str | None = None
    shown: str = ""
    duration: float = 0.0
    elapsed: float = 0.0
    warnings: tuple[str, ...] = ()


Heard = Callable[[float], None]
"""Told of each further stretch of audio, in seconds."""


def do_job(
    transcriber: Transcriber,
    job: Job,
    interrupts: Interrupts,
    heard: Heard = lambda _: None,
    said: Callable[[Segment], None] | None = None,
    source: Iterable[Floats] | None = None,
) -> Outcome:
    """Transcribe one recording and write its files. Raises `Interrupted`; all else that goes wrong is the outcome.

    With ``said``, each utterance is handed over as soon as it is certain, and nothing is shown at the end. ``source``
    is audio (float32 ``[n]`` blocks at 16 kHz) to take in place of the file's.
    """
    started = time.perf_counter()
    samples = 0

    def blocks() -> Iterator[Floats]:
        nonlocal samples
        for block in interrupts.watch(stream_audio(job.path, BLOCK_SECONDS)) if source is None else source:
            yield block
            samples += len(block)
            heard(len(block) / SAMPLE_RATE)

    with warnings_as_lines() as warnings:
        try:
            segments = []
            for segment in transcriber.utterances(blocks()):
                if said is not None:
                    said(segment)
                if said is None or job.outputs:
                    segments.append(segment)
            transcript = Transcript.of(segments, samples / SAMPLE_RATE)  # without words when nobody asks for them
            for kind, path in job.outputs.items():
                write_atomically(Path(path), WRITERS[kind].pieces(transcript, job.recording))
            shown = "".join(WRITERS[job.shown].pieces(transcript, job.recording)) if job.shown and said is None else ""
        except EdgeSttError as error:
            return Outcome(error=str(error), warnings=tuple(warnings))
        except BrokenPipeError:  # of ``said``: nobody reads any more
            raise
        except Exception as error:  # a fault in here must not cost the files after this one
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return Outcome(error=f"{job.name}: unexpected {reason}; please report it", warnings=tuple(warnings))
    return Outcome(None, shown, transcript.duration, time.perf_counter() - started, tuple(warnings))


@contextmanager
def warnings_as_lines() -> Iterator[list[str]]:
    """What the package warns of meanwhile, as lines, instead of on stderr."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, collector = logging.getLogger("edge_stt"), Collector(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def in_processes(
    jobs: Sequence[Job], options: LoadOptions, count: int, interrupts: Interrupts, heard: Heard = lambda _: None
) -> Generator[tuple[int, Outcome], None, None]:
    """Do jobs in ``count`` worker processes; the place of each in ``jobs``, and its outcome, in the order they end.

    A worker that dies (no memory, a crash of native code) costs the job it had and is replaced. Raises `EdgeSttError`
    when the model cannot be loaded.
    """
    waiting = iter(enumerate(jobs))
    workers: set[_Worker] = set()
    with selectors.DefaultSelector() as selector:

        def employ(worker: _Worker | None) -> None:
            """Give a worker the next job, or a new worker if there is none; without a job it goes home."""
            following = next(waiting, None)
            if following is None:
                if worker is not None:
                    selector.unregister(worker.output)
                    workers.discard(worker)
                    worker.stop()
                return
            if worker is None:
                worker = _Worker(options)
                workers.add(worker)
                selector.register(worker.output, selectors.EVENT_READ, worker)
            worker.give(*following)

        try:
            for _ in range(min(count, len(jobs))):
                employ(None)
            while workers:
                for key, _ in interrupts.wait(selector.select):
                    worker: _Worker = key.data
                    for message in worker.messages():
                        if "unable" in message:
                            raise (UsageError if message["usage"] else EdgeSttError)(message["unable"])
                        if "heard" in message:
                            heard(message["heard"])
                            continue
                        index = worker.index
                        employ(worker)
                        yield index, Outcome(**{**message, "warnings": tuple(message["warnings"])})
                    if worker.ended:
                        selector.unregister(worker.output)
                        workers.discard(worker)
                        yield worker.index, Outcome(error=f"{worker.job.name}: {worker.obituary()}")
                        employ(None)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.stop()


class _Worker:
    """A worker process from the outside."""

    def __init__(self, options: LoadOptions) -> None:
        # A session of its own, so that Ctrl-C reaches this process alone, which then tells the workers.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_stt.batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output: IO[bytes] = self.process.stdout
        self.ended = False
        self.index, self.job = -1, Job("")
        self._rest = b""
        self._send(asdict(options))

    def give(self, index: int, job: Job) -> None:
        """Let it do a job."""
        self.index, self.job = index, job
        self._send(asdict(job))

    def _send(self, data: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which its output will tell
            self.process.stdin.write(json.dumps(data).encode() + b"\n")
            self.process.stdin.flush()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it has said since, when there is something to read."""
        data = os.read(self.output.fileno(), 1 << 20)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from map(json.loads, lines)

    def stop(self) -> None:
        """Let it end; it is killed if it takes long."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.output.close()  # so that it does not wait for ever to be read
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def obituary(self) -> str:
        """Why it ended in the middle of a job."""
        self.stop()
        code = self.process.returncode
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the process that worked on it died ({why}); try it alone, without --jobs"


def main() -> None:
    """A worker process, until its input ends."""
    # Results go where stdout was; what libraries print must not get between them.
    channel = os.dup(1)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(channel, data) :]

    with Interrupts() as interrupts, suppress(Interrupted, BrokenPipeError):
        lines = interrupts.watch(iter(sys.stdin.buffer.readline, b""))
        try:
            transcriber = LoadOptions(**json.loads(next(lines))).load()
        except EdgeSttError as error:
            send({"unable": str(error), "usage": isinstance(error, UsageError)})
            return
        for line in lines:
            outcome = do_job(transcriber, Job(**json.loads(line)), interrupts, lambda s: send({"heard": s}))
            send(asdict(outcome))


if __name__ == "__main__":
    main()
