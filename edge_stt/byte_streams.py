"""Where audio's bytes come from, and what they carry: files, pipes, and containers known by their first bytes.

libsndfile needs to seek, and a pipe cannot. So what a pipe carries is recognised here, and the one container that
people stream live, 16-bit PCM in a WAV, is unwrapped here.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .errors import AudioError, printable

COPY_BYTES = 65_536  # read from a stream at once
MAX_WAV_HEADER = 1 << 20  # bytes of other chunks accepted before the samples of a WAV on a pipe
UNKNOWN_WAV_LENGTH = 0x7FFF_0000  # writers to pipes put 0, or a size from here up: the length is not known

# WAV (three ways), W64, AIFF, FLAC, OGG, CAF, AU, NIST SPHERE, and MP3 with a tag
CONTAINERS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"NIST_1A", b"ID3")

# Layer III bit rates in kbit/s of MPEG-1 and of MPEG-2 and 2.5, and MPEG-1 sample rates (ISO/IEC 11172-3, 2.4.2.3).
MPEG1_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MPEG1_RATES = (44_100, 48_000, 32_000)


class ByteStream(Protocol):
    """Anything to read bytes from: a file, a pipe, `io.BytesIO`. Its ``read1``, if it has one, is preferred."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        ...


def mp3_frame_length(head: bytes) -> int:
    """Bytes of the Layer III frame that ``head`` starts with, or 0 if it starts with none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return 0
    padding = head[2] >> 1 & 1
    if version == 3:
        return 144_000 * MPEG1_KBITS[bits] // MPEG1_RATES[rate] + padding
    return 72_000 * MPEG2_KBITS[bits] // (MPEG1_RATES[rate] // (2 if version == 2 else 4)) + padding


def mp3_states_length(fd: int) -> bool:
    """Whether the first MP3 frame is the customary ``Xing`` or ``Info`` one, which holds the number of frames."""
    head = os.pread(fd, 10, 0)
    start = 0
    if head.startswith(b"ID3") and len(head) == 10:  # its size: four bytes of seven bits (id3.org, ID3v2.3, 3.1)
        start = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    first_frame = os.pread(fd, 256, start)
    return b"Xing" in first_frame or b"Info" in first_frame


def starts_with_mp3_frames(head: bytes) -> bool:
    """Whether two MP3 frames of one kind follow each other. One alone may be PCM: its sync is a sample like any."""
    length = mp3_frame_length(head)
    following = head[length : length + 4]
    return (
        length > 0
        and mp3_frame_length(following) > 0
        and following[1] & 0xFE == head[1] & 0xFE
        and following[2] & 0x0C == head[2] & 0x0C
    )


def read_wav_header(stream: ByteStream, head: bytes, name: str) -> tuple[tuple[int, int] | None, int | None, bytes]:
    """Read a WAV up to its samples: (rate, channels), bytes of samples or None for all that come, and the bytes read.

    The format is None when it is not plain 16-bit PCM: then the bytes read and the rest go to libsndfile.
    Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991); for the extensible
    form, Microsoft's WAVEFORMATEXTENSIBLE.
    """
    wav_format: tuple[int, int] | None = None
    position = 12  # after RIFF, size, WAVE
    while True:
        head = fill(stream, head, position + 8, name)
        if len(head) < position + 8:
            return None, None, head
        kind, size = struct.unpack_from("<4sI", head, position)
        position += 8
        if kind == b"data":
            known = 0 < size < UNKNOWN_WAV_LENGTH
            return wav_format, size if known else None, head
        end = position + size + size % 2
        if end > MAX_WAV_HEADER:
            return None, None, head
        head = fill(stream, head, end, name)
        if len(head) < end:
            return None, None, head
        if kind == b"fmt " and size >= 16:
            tag, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", head, position)
            if tag == 0xFFFE and size >= 26:  # extensible: the real tag starts the sub-format
                (tag,) = struct.unpack_from("<H", head, position + 24)
            wav_format = (rate, channels) if (tag, bits, align) == (1, 16, 2 * channels) else None
        position = end


class Rejoined:
    """A stream whose first bytes were already taken: they come first, then the rest, up to ``remaining`` bytes."""

    def __init__(self, head: bytes, stream: ByteStream, remaining: int | None, name: str) -> None:
        self.name = name
        self.remaining = remaining
        self._head = head
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, what is there; empty at the end."""
        if self.remaining is not None:
            size = min(size, self.remaining)
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = read_some(self._stream, size, self.name) if size else b""
        if self.remaining is not None:
            self.remaining -= len(data)
        return data


def read_some(stream: ByteStream, size: int, name: str) -> bytes:
    """What a stream has ready, at most ``size`` bytes, waiting for the first; empty at its end."""
    try:
        data: Any = getattr(stream, "read1", stream.read)(size)
    except (OSError, EOFError, ValueError) as error:  # a broken device; a decompressor's end; a closed file
        raise AudioError(f"{name}: reading failed ({' '.join(str(error).split())})") from error
    if isinstance(data, str):
        raise AudioError(f"{name}: gives text, not bytes; open it in binary mode")
    return bytes(data or b"")


def fill(stream: ByteStream, head: bytes, size: int, name: str) -> bytes:
    """``head`` made ``size`` bytes long from the stream, shorter only at its end, and never past it."""
    while len(head) < size and (data := read_some(stream, min(size - len(head), COPY_BYTES), name)):
        head += data
    return head


def open_file(path: str | os.PathLike[str], name: str) -> BinaryIO:
    """Open a file or named pipe for reading; raises `AudioError` that says what stands in the way."""
    if not os.fspath(path):  # as a Path it would be the current folder
        raise AudioError("the name of a file is empty; name a file")
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise AudioError(f"{name}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise AudioError(f"{name}: is a directory; name a file in it") from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read it; change its owner or mode") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AudioError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def printable_path(path: str | os.PathLike[str]) -> str:
    """A path for a message: one line, and printable even where the file name is not valid UTF-8."""
    return printable(readable_path(path))


def readable_path(path: str | os.PathLike[str]) -> str:
    r"""A path as text that any JSON can hold: itself, but with ``\x80`` and the like for bytes that are not UTF-8."""
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stream_name(stream: Any) -> str:
    """What to call a stream in a message."""
    name = getattr(stream, "name", None)
    if name == "<stdin>":
        return "standard input"
    return printable_path(name) if isinstance(name, str) and name else "the stream"
