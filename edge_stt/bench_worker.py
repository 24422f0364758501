"""One measuring process: ``python -m edge_stt.bench_worker`` loads one variant and reads clips as it is told.

JSON lines both ways. In: the variant, then ``{"path": …}`` a clip. Out: ``{"ready": …}``, then a measurement a clip,
and at the end of the input what the whole process took. Whatever an engine prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .audio import read_audio
from .engines import SAMPLE_RATE, Engine, Variant, load_engine
from .errors import AudioError, EdgeSttError
from .features import Floats

CHUNK_SECONDS = 0.1  # how much audio a microphone hands over at once
TRAILING_SECONDS = 2.0  # silence after the clip, for engines that find the end of speech themselves


def main() -> None:
    """Serve until the input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    variant = Variant(**json.loads(sys.stdin.readline()))
    try:
        engine = load_engine(variant)
    except EdgeSttError as error:
        send({"error": str(error)})
        return
    send({"ready": asdict(engine.info)})
    measure = measure_stream if variant.mode == "stream" else measure_offline
    for line in sys.stdin:
        try:
            samples = read_audio(Path(json.loads(line)["path"]))
            send({**measure(engine, samples), "duration": len(samples) / SAMPLE_RATE})
        except AudioError as error:
            send({"unreadable": str(error)})
        except EdgeSttError as error:
            send({"error": str(error)})
        except Exception as error:  # a foreign engine may raise anything
            send({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
    send({"peak_rss": peak_rss(), "cpu": time.process_time()})


def measure_offline(engine: Engine, samples: Floats) -> dict[str, Any]:
    """Text and seconds for a whole clip that is in memory: reading the file is not counted."""
    engine.clock.reset()
    started, cpu = time.perf_counter(), time.process_time()
    reading = engine.transcribe(samples)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "text": reading.text,
        "words": reading.words,
        "heard": len(samples) / SAMPLE_RATE,
        "elapsed": elapsed,
        "cpu": cpu,
        "stages": dict(engine.clock.seconds),
    }


def measure_stream(engine: Engine, samples: Floats) -> dict[str, Any]:
    """The clip at the pace of a microphone, on a virtual clock.

    A chunk can be worked on once it is recorded and the chunk before is done; the work is done in real time and takes
    as long as it takes, only the waiting is left out. After the clip comes silence, until a final has come or
    `TRAILING_SECONDS` are over; then the stream is told that it ends. A final that came before the end of speech, with
    nothing after it, cut the utterance off: that is no latency.
    """
    engine.clock.reset()
    stream = engine.stream()
    chunk = int(CHUNK_SECONDS * SAMPLE_RATE)
    silence = np.zeros(int(TRAILING_SECONDS * SAMPLE_RATE), np.float32)
    audio = np.concatenate([samples, silence])
    free = elapsed = 0.0  # when the processor has finished what it has; seconds of work
    heard = 0
    events: list[tuple[float, bool, str]] = []
    onset, end = speech_bounds(samples)
    ended: float | None = None  # how much audio was heard when the final came, with no text after it
    cpu = time.process_time()
    for start in range(0, len(audio), chunk):
        if start >= len(samples) and ended is not None and ended >= end:
            break
        piece = audio[start : start + chunk]
        heard += len(piece)
        before = time.perf_counter()
        new = stream.accept(piece)
        work = time.perf_counter() - before
        free = max(free, heard / SAMPLE_RATE) + work
        elapsed += work
        events += [(free, event.final, event.text) for event in new]
        for event in new:
            if event.text.strip():
                ended = heard / SAMPLE_RATE if event.final else None
    before = time.perf_counter()
    new = stream.finish()
    flush = time.perf_counter() - before
    events += [(free + flush, event.final, event.text) for event in new]
    cpu = time.process_time() - cpu
    finals = [(at, text) for at, final, text in events if final and text.strip()]
    partials = [at for at, _, text in events if text.strip()]
    return {
        "text": " ".join(text.strip() for _, text in finals),
        "words": (),
        "heard": heard / SAMPLE_RATE,
        "elapsed": elapsed + flush,
        "cpu": cpu,
        "stages": dict(engine.clock.seconds),
        "first_partial": max(0.0, partials[0] - onset) if partials else None,
        "final": finals[-1][0] - end if ended is not None and ended >= end else None,
        "cut_off": ended is not None and ended < end and not any(event.text.strip() for event in new),
        "flush": flush,
        "revised": revised_words(events),
    }


def speech_bounds(samples: Floats) -> tuple[float, float]:
    """Seconds at which speech begins and ends, by energy.

    The first and last 10 ms whose level is within 35 dB of the loudest, and 10 dB above the quietest tenth.
    """
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    if len(frames) == 0:
        return 0.0, len(samples) / SAMPLE_RATE
    level = 10.0 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-10)
    threshold = min(max(level.max() - 35.0, np.percentile(level, 10) + 10.0), level.max())
    loud = np.flatnonzero(level >= threshold)
    return float(loud[0]) * 0.01, float(loud[-1] + 1) * 0.01


def revised_words(events: list[tuple[float, bool, str]]) -> int:
    """Words that were shown and then taken back or changed, summed over all updates of an utterance."""
    revised, shown = 0, list[str]()
    for _, final, text in events:
        words = text.split()
        same = 0
        while same < min(len(shown), len(words)) and shown[same] == words[same]:
            same += 1
        revised += len(shown) - same
        shown = [] if final else words
    return revised


def peak_rss() -> float:
    """Most memory this process has had in use, in MiB.

    ``ru_maxrss`` will not do on Linux: it begins with that of the process that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


if __name__ == "__main__":
    main()
