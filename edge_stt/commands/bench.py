"""``edge-stt bench``: word and character error rates of a model on manifests, with speed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import AudioError, DataError, RuntimeMissingError
from ..recogniser import Transcriber, load_model
from ..text import NORMALISER, normalise_text

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class ClipScore:
    """Edit counts of one clip; seconds of audio and of processing."""

    speaker: str
    words: int
    word_errors: int
    characters: int
    character_errors: int
    seconds: float
    elapsed: float
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Score:
    """Corpus-level rates in percent, ``wer_low``..``wer_high`` the 95 % bootstrap interval over speakers.

    ``rtf`` is processing time divided by duration: lower is faster.
    """

    set: str
    model: str
    decoder: str
    clips: int
    hours: float
    wer: float
    wer_low: float
    wer_high: float
    cer: float
    rtf: float
    normaliser: str = NORMALISER


def bench(
    manifests: Annotated[list[Path], typer.Argument(help="JSONL manifests with audio_filepath and text.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the one that comes along.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the TFLite runtime.")] = 1,
    decoder: Annotated[str | None, typer.Option(help="greedy, beam or lexicon; without it, the package's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
    details: Annotated[
        Path | None, typer.Option(help="Write each clip's texts and counts here, as JSON lines.")
    ] = None,
) -> None:
    """Score a model: WER and CER over whole manifests, a bootstrap interval over speakers, and speed."""
    transcriber = load_model(model, num_threads=threads, decoder=decoder)
    if not as_json:
        typer.echo("| set | clips | hours | decoder | WER % | 95 % interval | CER % | RTF |")
        typer.echo("|---|---|---|---|---|---|---|---|")
    for manifest in manifests:
        clips = score_manifest(transcriber, manifest)
        score = summarise(clips, f"{manifest.parent.name} {manifest.stem}", transcriber)
        if as_json:
            typer.echo(json.dumps(asdict(score)))
        else:
            typer.echo(
                f"| {score.set} | {score.clips} | {score.hours:.2f} | {score.decoder} | {score.wer:.1f} "
                f"| {score.wer_low:.1f}–{score.wer_high:.1f} | {score.cer:.1f} | {score.rtf:.4f} |"
            )
        if details:
            with details.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"set": score.set, **asdict(clip)}) + "\n" for clip in clips)


def score_manifest(transcriber: Transcriber, manifest: Path) -> list[ClipScore]:
    """Transcribe and count the errors of every clip; raises `DataError` for lines that cannot be used."""
    scores = []
    for number, item in enumerate(_items(manifest), 1):
        try:
            path = manifest.parent / item["audio_filepath"]
            reference = normalise_text(item["text"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{manifest}:{number}: needs audio_filepath and text ({error})") from error
        started = time.perf_counter()
        try:
            result = transcriber.transcribe(path)
        except AudioError as error:
            raise DataError(f"{manifest}:{number}: {error}") from error
        elapsed = time.perf_counter() - started
        hypothesis = normalise_text(result.text)
        words, word_errors = edits(reference.split(), hypothesis.split())
        characters, character_errors = edits(list(reference), list(hypothesis))
        speaker = str(item.get("speaker") or "unknown")
        # An unnamed speaker is taken as somebody else each time: the interval is then over clips.
        speaker = f"{speaker}-{number}" if speaker == "unknown" else speaker
        scores.append(
            ClipScore(
                speaker,
                words,
                word_errors,
                characters,
                character_errors,
                result.duration,
                elapsed,
                reference,
                hypothesis,
            )
        )
    if not scores:
        raise DataError(f"{manifest} has no clips")
    return scores


def _items(manifest: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the manifest {manifest}: {error}") from error


def edits(reference: list[str], hypothesis: list[str]) -> tuple[int, int]:
    """Length of the reference, and substitutions + deletions + insertions (jiwer's alignment)."""
    try:
        import jiwer
    except ImportError as error:
        raise RuntimeMissingError("edge-stt bench needs jiwer: pip install 'edge-stt[bench]'") from error
    if not reference:
        return 0, len(hypothesis)
    # jiwer works on strings of words; units are joined by a space whatever they are.
    shown = [" ".join("_" if unit == " " else unit for unit in units) for units in (reference, hypothesis)]
    out = jiwer.process_words(*shown)
    return len(reference), out.substitutions + out.deletions + out.insertions


def summarise(clips: list[ClipScore], name: str, transcriber: Transcriber) -> Score:
    """Corpus-level rates with the interval of M. Bisani and H. Ney, Bootstrap estimates, ICASSP 2004, over speakers."""
    speakers = sorted({clip.speaker for clip in clips})
    errors = np.array([sum(c.word_errors for c in clips if c.speaker == s) for s in speakers])
    words = np.array([sum(c.words for c in clips if c.speaker == s) for s in speakers])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(speakers), size=(BOOTSTRAP_DRAWS, len(speakers)))
    rates = 100.0 * errors[drawn].sum(axis=1) / np.maximum(1, words[drawn].sum(axis=1))
    low, high = np.percentile(rates, [2.5, 97.5])
    seconds = sum(c.seconds for c in clips)
    return Score(
        set=name,
        model=transcriber.info.name,
        decoder=f"{transcriber.decoding.decoder} {transcriber.head}",
        clips=len(clips),
        hours=seconds / 3600,
        wer=100.0 * float(errors.sum()) / max(1, int(words.sum())),
        wer_low=float(low),
        wer_high=float(high),
        cer=100.0 * sum(c.character_errors for c in clips) / max(1, sum(c.characters for c in clips)),
        rtf=sum(c.elapsed for c in clips) / max(seconds, 1e-9),
    )
