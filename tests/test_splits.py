"""Fixed splits: nothing that is scored is trained on."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from edge_stt.errors import DataError
from edge_stt.text import normalise_text
from train.splits import LJSPEECH_BY_BOOK, NOISE_TEST, ljspeech_split

from .conftest import ROOT

CORPORA = ROOT.parent / "shared" / "corpora"


def test_ljspeech_is_split_by_book() -> None:
    data = json.loads(LJSPEECH_BY_BOOK.read_text(encoding="utf-8"))
    chapters = [chapter for chapters in data["books"].values() for chapter in chapters]
    assert sorted(chapters) == [f"LJ{number:03d}" for number in range(1, 51)]
    splits = {book: {ljspeech_split(f"{chapter}-0001") for chapter in own} for book, own in data["books"].items()}
    assert all(len(split) == 1 for split in splits.values())
    assert {split for own in splits.values() for split in own} == {"train", "dev", "test"}
    with pytest.raises(DataError, match="LJ051"):
        ljspeech_split("LJ051-0001")


def _items(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(not CORPORA.is_dir(), reason=f"the corpora are not at {CORPORA}")
def test_speakers_and_recordings_of_the_corpora_do_not_overlap() -> None:
    checked = 0
    for folder in sorted(CORPORA.iterdir()):
        sets = {p.stem: _items(p) for p in folder.glob("*.jsonl") if p.stem in ("train", "dev", "test")}
        for name in ("dev", "test"):
            if name not in sets or "train" not in sets:
                continue
            checked += 1
            files = {item["audio_filepath"] for item in sets["train"]}
            assert not files & {item["audio_filepath"] for item in sets[name]}
            speakers = {item["speaker"] for item in sets["train"]}
            if folder.name in ("librispeech", "speechocean762"):
                assert not speakers & {item["speaker"] for item in sets[name]}
            if folder.name in ("commonvoice", "ljspeech"):  # speakers may be shared there, sentences may not
                texts = {normalise_text(item["text"]) for item in sets["train"]}
                assert not texts & {normalise_text(item["text"]) for item in sets[name]}
    assert checked >= 6


@pytest.mark.skipif(not CORPORA.is_dir(), reason=f"the corpora are not at {CORPORA}")
def test_librispeech_speakers_do_not_overlap_between_corpora() -> None:
    speakers: dict[str, set[str]] = defaultdict(set)
    for corpus in ("librispeech", "librispeech-light", "librispeech-voices", "librispeech-other"):
        for path in (CORPORA / corpus).glob("*.jsonl"):
            speakers[path.stem] |= {item["speaker"] for item in _items(path)}
    assert not speakers["train"] & speakers["dev"]
    assert not speakers["train"] & speakers["test"]
    assert not speakers["dev"] & speakers["test"]


@pytest.mark.skipif(not CORPORA.is_dir(), reason=f"the corpora are not at {CORPORA}")
def test_noise_for_scoring_is_ten_minutes_of_the_noise_there_is() -> None:
    held_out = set(NOISE_TEST.read_text(encoding="utf-8").splitlines())
    items = {item["audio_filepath"]: float(item["duration"]) for item in _items(CORPORA / "noise" / "noise.jsonl")}
    assert held_out <= set(items)
    assert 600 < sum(items[name] for name in held_out) < 660
