"""The reader against damaged bytes: whatever comes in, finite float32 or an `AudioError` in one line comes out.

Mutated, cut and spliced sound files of every format, for a bounded time (``EDGE_STT_FUZZ_SECONDS``, 10 by default), and
arbitrary bytes from hypothesis. The address space is limited, so that an allocation by a damaged header's claim fails.
"""

from __future__ import annotations

import io
import os
import random
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_stt.audio import audio_duration, read_audio, read_stdin
from edge_stt.errors import AudioError
from edge_stt.features import Floats

from .audio_samples import FORMATS, broken_files, encode, flac_header, flush_c_output, speech, wav

SECONDS = float(os.environ.get("EDGE_STT_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("EDGE_STT_FUZZ_SEED", "1"))
SPARE_BYTES = 512 << 20  # address space beyond what the process has: far above what a short clip takes
EVIL_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
EVIL_WORDS = [
    value.to_bytes(4, order)
    for value in (0, 1, 3, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)
    for order in ("little", "big")
]


def valid_files() -> list[bytes]:
    """Short sound files of every format, mono and stereo."""
    clip = speech()[:6_000]
    files = [flac_header(0), wav(b"", data_size=0), wav(bytes(100), before=b"LIST\4\0\0\0INFO")]
    for kind in FORMATS:
        rate = 44_100 if kind.container == "MP3" else kind.rates[0]
        files += [encode(np.stack([clip] * n, axis=1), rate, kind.container, kind.coding) for n in (1, 2)]
    return files


def mutate(rng: random.Random, files: list[bytes]) -> bytes:
    """One file with damage of a random kind, most often near its header."""
    data = bytearray(rng.choice(files))
    reach = min(len(data), rng.choice((64, 512, 1 << 30)))
    kind = rng.randrange(6)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
            data[rng.randrange(reach)] = rng.choice((*EVIL_BYTES, rng.randrange(256)))
    elif kind == 2:
        for _ in range(rng.choice((1, 2))):
            at = rng.randrange(reach)
            data[at : at + 4] = rng.choice(EVIL_WORDS)
    elif kind == 3:
        other = rng.choice(files)
        data[rng.randrange(reach) :] = other[rng.randrange(min(len(other), 512)) :]
    elif kind == 4:
        at = rng.randrange(reach)
        del data[at : at + rng.choice((1, 2, 3, 4, 100))]
    else:
        at = rng.randrange(reach)
        data[at:at] = data[at : at + rng.choice((1, 4, 50))] * rng.choice((1, 2, 20))
    return bytes(data)


@pytest.fixture
def limited_memory() -> Iterator[None]:
    """Allow `SPARE_BYTES` of new address space during a test."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(read: Callable[[], Floats]) -> str:
    """'audio' or the error without its details; anything but those fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            samples = read()
        except AudioError as error:
            assert str(error).isprintable()
            # What libsndfile says when its allocation failed, which the limit turns a huge one into.
            assert "malloc" not in str(error)
            return str(error).split(": ", 1)[1][:24]
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.isfinite(samples).all()
    return "audio"


def from_stdin(data: bytes) -> Floats:
    return np.concatenate([np.empty(0, np.float32), *read_stdin(io.BytesIO(data))])


@pytest.mark.slow
@pytest.mark.usefixtures("limited_memory")
def test_damaged_files_give_audio_or_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    files = valid_files()
    path = tmp_path / "damaged"
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = mutate(rng, files)
        path.write_bytes(data)
        started = time.thread_time()
        try:
            outcomes[outcome(lambda: read_audio(path))] += 1
            outcomes[outcome(lambda data=data: from_stdin(data))] += 1  # type: ignore[misc]
            duration = audio_duration(path)
            assert duration is None or duration >= 0
        except Exception as error:
            kept = Path(os.environ.get("TMPDIR", "/tmp")) / "edge-stt-fuzz-failure"
            kept.write_bytes(data)
            pytest.fail(f"{error!r} on the bytes in {kept} (input {sum(outcomes.values())} of seed {SEED})")
        slowest = max(slowest, time.thread_time() - started)
    # A fuzz that only ever met one outcome would test nothing.
    assert outcomes["audio"] > 20
    assert len(outcomes) >= 5
    assert slowest < 5.0  # CPU seconds for a clip of under a second, whatever its header claims
    flush_c_output()
    assert capfd.readouterr().out == ""  # standard output is for results, in C too


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", *(file[:n] for file in valid_files()[3::2] for n in (4, 12, 44, 100))]),
    tail=st.binary(max_size=300),
)
@example(head=b"", tail=b"")
@pytest.mark.usefixtures("limited_memory")
def test_arbitrary_bytes_after_a_valid_start(head: bytes, tail: bytes) -> None:
    outcome(lambda: read_audio(io.BytesIO(head + tail)))
    outcome(lambda: from_stdin(head + tail))


@pytest.mark.usefixtures("limited_memory")
def test_every_cut_of_broken_headers() -> None:
    """What is broken and cut off besides, within the headers, where readers look."""
    for data, _ in broken_files().values():
        for end in range(1, min(len(data), 100), 9):
            outcome(lambda data=data, end=end: read_audio(io.BytesIO(data[:end])))  # type: ignore[misc]


@pytest.mark.usefixtures("limited_memory")
def test_the_memory_limit_holds() -> None:
    with pytest.raises(MemoryError):
        np.empty(2 * SPARE_BYTES, dtype=np.uint8)
