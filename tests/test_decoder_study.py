"""What decoding costs and gives, on the demo clip: the shape of the answers, and what must hold of any model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_stt.benchmark import load_set
from edge_stt.decoder_study import Utterance, boosting, hot_table, listen, rare_words, table, with_words, without_words
from edge_stt.decoders import choose
from edge_stt.package import ModelPackage
from edge_stt.recogniser import default_model

from .conftest import DATA, DEMO

pytest.importorskip("jiwer", reason="needs the bench extra")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("dev") / "dev.jsonl"
    text = (DATA / "demo.txt").read_text(encoding="utf-8").strip()
    path.write_text(json.dumps({"audio_filepath": str(DEMO), "text": text, "speaker": "LJ"}) + "\n")
    return path


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return ModelPackage.load(default_model())


@pytest.fixture(scope="module")
def heard(manifest: Path, package: ModelPackage) -> list[Utterance]:
    return listen(package, load_set(manifest))


def test_searches_without_words(package: ModelPackage, heard: list[Utterance]) -> None:
    rows = {row.name: row for row in without_words(heard, "characters", package.info.heads["characters"], 16)}
    assert list(rows)[:2] == ["greedy", "beam 16"]
    assert all(0 < row.counts.errors < row.counts.units for row in rows.values())
    assert all(row.milliseconds > 0 for row in rows.values())


def test_the_best_of_many_is_no_worse(package: ModelPackage, heard: list[Utterance]) -> None:
    rows = list(with_words(package, choose(package, "lexicon"), heard, (4, 16)))
    assert [row.name for row in rows] == ["beam 4", "beam 16"]
    for row in rows:
        assert row.oracle is not None
        assert row.oracle.errors <= row.counts.errors
    assert len(list(table(rows, "WER"))) == 4


def test_hot_words_are_found(package: ModelPackage, heard: list[Utterance]) -> None:
    words = rare_words(heard, 3)
    assert len(words) == 3 and all(len(word) >= 6 for word in words)
    rows = list(boosting(package, choose(package, "lexicon"), heard, words))
    assert [row.said for row in rows] == [3] * len(rows)
    assert rows[0].found <= rows[-1].found
    assert rows[0].others.units == len(heard[0].text.split()) - 3
    assert len(list(hot_table(rows))) == 2 + len(rows)


def test_the_command_prints_three_tables(manifest: Path) -> None:
    command = [sys.executable, "-m", "edge_stt.cli", "decoder", "study", str(manifest), "--hot-words", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(line.startswith("|---|") for line in done.stdout.splitlines()) == 3
