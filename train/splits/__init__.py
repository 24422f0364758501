"""Fixed splits of corpora whose distributions have none.

LJ Speech, all 13,100 clips of 24 hours, is split by book: clips of one book share names, topics and sentences that run
on from clip to clip, so a split at random tests less than it seems to. The corpus (K. Ito and L. Johnson, The LJ Speech
Dataset, 2017) numbers its clips by chapter; chapters of one book follow one another. `ljspeech-by-book.json` beside
this file is the split, for use elsewhere too.

``noise-test.txt`` names the clips of the noise corpus on which written words are counted; they are kept out of
training.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_stt.errors import DataError

NOISE_TEST = Path(__file__).parent / "noise-test.txt"
LJSPEECH_BY_BOOK = Path(__file__).parent / "ljspeech-by-book.json"


@lru_cache(maxsize=1)
def _chapters() -> dict[str, str]:
    data: dict[str, Any] = json.loads(LJSPEECH_BY_BOOK.read_text(encoding="utf-8"))
    split_of = {book: split for split in ("dev", "test") for book in data[split]}
    return {chapter: split_of.get(book, "train") for book, chapters in data["books"].items() for chapter in chapters}


def ljspeech_split(clip_id: str) -> str:
    """``train``, ``dev`` or ``test`` for an id such as ``LJ001-0001``; raises `DataError` for any other id."""
    chapter = Path(clip_id).name.partition("-")[0]
    if chapter not in _chapters():
        raise DataError(f"{clip_id!r} is not a clip of LJ Speech")
    return _chapters()[chapter]
