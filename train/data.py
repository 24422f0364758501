"""The training data: readers of corpora (`edge_stt.corpora`), and the hash that names a set."""

from __future__ import annotations

import hashlib

from edge_stt.corpora import (
    Clip,
    Report,
    read_commonvoice,
    read_corpus,
    read_librispeech,
    read_ljspeech,
    read_manifest,
)

__all__ = [
    "Clip",
    "Report",
    "data_hash",
    "read_commonvoice",
    "read_corpus",
    "read_librispeech",
    "read_ljspeech",
    "read_manifest",
]


def data_hash(clips: list[Clip]) -> str:
    """SHA-256 over the ids and texts of a set: two runs with equal hashes saw the same clips."""
    digest = hashlib.sha256()
    for clip in sorted(clips, key=lambda c: c.id):
        digest.update(f"{clip.id}\t{clip.text}\n".encode())
    return digest.hexdigest()
