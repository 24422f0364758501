"""The training data: readers of corpora (`edge_stt.corpora`), and the hash that names a set."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_stt.audio import read_audio
from edge_stt.corpora import (
    Clip,
    Report,
    read_commonvoice,
    read_corpus,
    read_librispeech,
    read_ljspeech,
    read_manifest,
    read_sounds,
)
from edge_stt.errors import AudioError, DataError

__all__ = [
    "Clip",
    "Report",
    "data_hash",
    "read_commonvoice",
    "read_corpus",
    "read_librispeech",
    "read_ljspeech",
    "read_manifest",
    "read_noises",
]


def read_noises(manifest: Path, report: Report) -> list[Path]:
    """The noises of a manifest or table that can be read; raises `DataError` where there are none."""
    found = []
    for path in read_sounds(manifest, report):
        try:
            read_audio(path)
        except AudioError as error:
            report(str(error))
            continue
        found.append(path)
    if not found:
        raise DataError(f"{manifest} names no noise that can be read")
    return found


def data_hash(clips: list[Clip]) -> str:
    """SHA-256 over the ids and texts of a set: two runs with equal hashes saw the same clips."""
    digest = hashlib.sha256()
    for clip in sorted(clips, key=lambda c: c.id):
        digest.update(f"{clip.id}\t{clip.text}\n".encode())
    return digest.hexdigest()
