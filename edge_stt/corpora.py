"""Readers of speech corpora. Each yields `Clip`s; what is wrong with an item is reported as `file:line: reason`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError, reason


@dataclass(frozen=True)
class Clip:
    """One recording and what is said in it. ``duration`` is in seconds, 0 when the source does not say."""

    id: str
    corpus: str
    speaker: str
    path: Path
    duration: float
    text: str
    source: str  # "file:line" of the manifest, for messages


Report = Callable[[str], None]


def _lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text; not `splitlines`, which also cuts at U+2028 and the like, lawful inside JSON strings."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the manifest {path}: {reason(error)}") from error


def _is_there(path: Path, source: str, report: Report) -> bool:
    try:
        if path.is_file():
            return True
    except OSError:  # a name too long to ask about
        pass
    report(f"{source}: no such file: {path}")
    return False


def _name_of(manifest: Path) -> str:
    """A corpus has the name of the folder that it lies in; `train.jsonl` alone is in one, too."""
    return manifest.absolute().parent.name or manifest.stem


def read_manifest(manifest: Path, report: Report, corpus: str | None = None, spoken: bool = True) -> Iterator[Clip]:
    """Read a NeMo-style JSONL manifest: ``audio_filepath`` (relative to the manifest), ``duration``, ``text``.

    ``speaker`` and ``id`` are optional; the corpus has the name of its manifest's folder. Lines that cannot be used go
    to ``report`` and are skipped; without ``spoken``, those without text can be. Raises `DataError` when the manifest
    itself cannot be read.
    """
    corpus = corpus or _name_of(manifest)
    for number, line in enumerate(_lines(manifest), 1):
        if not line.strip():
            continue
        source = f"{manifest}:{number}"
        try:
            item = json.loads(line)
            path = manifest.parent / item["audio_filepath"]
            clip_id = f"{corpus}/{item.get('id') or Path(item['audio_filepath']).with_suffix('')}"
            duration = float(item.get("duration", 0.0))
            if not (math.isfinite(duration) and duration >= 0.0):
                raise ValueError(f"a duration of {duration} cannot be")
            text = item["text"] if spoken else item.get("text", "")
            if not isinstance(text, str):
                raise ValueError("text must be text")
            if item.get("offset"):
                raise ValueError("parts of recordings, with an offset, are not read: cut them out")
            speaker = f"{corpus}/{item.get('speaker') or 'unknown'}"
            clip = Clip(clip_id, corpus, speaker, path, duration, text, source)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            report(f"{source}: not a manifest line ({type(error).__name__}: {error})")
            continue
        if _is_there(path, source, report):
            yield clip


def read_ljspeech(folder: Path, report: Report) -> Iterator[Clip]:
    """Read the layout of LJSpeech-1.1: ``metadata.csv`` (id|text|normalised text) beside ``wavs/``."""
    metadata = folder / "metadata.csv"
    for number, line in enumerate(_lines(metadata), 1):
        if not line.strip():
            continue
        source, row = f"{metadata}:{number}", line.rstrip("\r").split("|")
        if len(row) < 2:
            report(f"{source}: needs id|text or id|text|normalised text")
            continue
        path = folder / "wavs" / f"{row[0]}.wav"
        if _is_there(path, source, report):
            yield Clip(f"ljspeech/{row[0]}", "ljspeech", "ljspeech/LJ", path, 0.0, row[-1], source)


def read_librispeech(folder: Path, report: Report) -> Iterator[Clip]:
    """Read the layout of LibriSpeech: ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside FLAC files."""
    for transcript in sorted(folder.glob("**/*.trans.txt")):
        for number, line in enumerate(_lines(transcript), 1):
            if not line.strip():
                continue
            source = f"{transcript}:{number}"
            clip_id, _, text = line.strip().partition(" ")
            path = transcript.parent / f"{clip_id}.flac"
            if not path.is_file():
                report(f"{source}: no such file: {path}")
                continue
            speaker = clip_id.split("-")[0]
            yield Clip(f"librispeech/{clip_id}", "librispeech", f"librispeech/{speaker}", path, 0.0, text, source)


def read_commonvoice(table: Path, report: Report) -> Iterator[Clip]:
    """Read a table of Common Voice (``train.tsv`` and the like) beside ``clips/``."""
    rows = csv.DictReader((line + "\n" for line in _lines(table)), delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in rows:
        source = f"{table}:{rows.line_num}"
        try:
            needed = {name: row[name] for name in ("path", "sentence", "client_id")}
        except KeyError as error:
            raise DataError(f"{table} has no column {error}: not a Common Voice table") from error
        if missing := [name for name, value in needed.items() if value is None]:
            report(f"{source}: has too few columns: no {' and no '.join(missing)}")
            continue
        name, text, speaker = needed.values()
        path = table.parent / "clips" / name
        if _is_there(path, source, report):
            yield Clip(
                f"commonvoice/{path.stem}", "commonvoice", f"commonvoice/{speaker[:16]}", path, 0.0, text, source
            )


COLUMNS = {  # what they are called in tables, DeepSpeech's and Coqui's among them
    "audio": ("wav_filename", "audio_filepath", "path", "file", "wav", "audio"),
    "text": ("transcript", "text", "sentence", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id"),
}


def read_table(table: Path, needed: Sequence[str], report: Report) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV table with their numbers; of each what is in the columns that `COLUMNS` has names for.

    The first line names the columns, which are parted by commas, semicolons, tabs or bars. Raises `DataError` where
    one of ``needed`` is not among them.
    """
    head, *lines = _lines(table)
    head = head.lstrip("\ufeff")
    delimiter = max(",;\t|", key=head.count)
    whole = (line + "\n" for line in [head, *lines])
    if delimiter in ",;":
        rows = csv.reader(whole, delimiter=delimiter)
    else:  # such tables are made without quotes
        rows = csv.reader(whole, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    names = [name.strip().lower() for name in next(rows, [])]
    found = {of: next((names.index(name) for name in known if name in names), None) for of, known in COLUMNS.items()}
    for of in needed:
        if found[of] is None:
            *most, last = COLUMNS[of]
            raise DataError(
                f"{table} has no column for the {of}: its first line names the columns, and one must be called "
                f"{', '.join(most)} or {last}"
            )
    try:
        for row in rows:
            if row and len(row) != len(names):
                report(
                    f"{table}:{rows.line_num}: has {len(row)} columns and not {len(names)}; a text with {delimiter!r} "
                    "in it stands in double quotes"
                )
            elif any("\n" in value.strip() for value in row):  # what follows it would be taken for part of the text
                report(f"{table}:{rows.line_num}: goes over several lines: a double quote is not closed")
            elif row:
                yield rows.line_num, {of: row[at].strip() for of, at in found.items() if at is not None}
    except csv.Error as error:
        raise DataError(f"{table}:{rows.line_num}: not a line of a table: {error}") from error


def read_csv(table: Path, report: Report) -> Iterator[Clip]:
    """Read a table of recordings (`read_table`), whose paths are relative to it."""
    corpus = _name_of(table)
    for number, row in read_table(table, ("audio", "text"), report):
        source, path = f"{table}:{number}", table.parent / row["audio"]
        if _is_there(path, source, report):
            clip_id, speaker = Path(row["audio"]).with_suffix(""), row.get("speaker") or "unknown"
            yield Clip(f"{corpus}/{clip_id}", corpus, f"{corpus}/{speaker}", path, 0.0, row["text"], source)


def read_sounds(path: Path, report: Report) -> list[Path]:
    """The recordings of a manifest or table whose texts do not matter, such as noises."""
    if path.suffix == ".csv":
        rows = read_table(path, ("audio",), report)
        found = [(f"{path}:{number}", path.parent / row["audio"]) for number, row in rows]
        return [sound for source, sound in found if _is_there(sound, source, report)]
    return [clip.path for clip in read_manifest(path, report, spoken=False)]


def read_corpus(path: Path, report: Report) -> Iterator[Clip]:
    """Read whatever lies at ``path``: a JSONL manifest, a CSV table, one of Common Voice, an LJSpeech or a LibriSpeech
    folder."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; check the path")
    if path.suffix == ".jsonl":
        return read_manifest(path, report)
    if path.suffix == ".tsv":
        return read_commonvoice(path, report)
    if path.suffix == ".csv":
        return read_csv(path, report)
    if (path / "metadata.csv").is_file():
        return read_ljspeech(path, report)
    if path.is_dir() and next(path.glob("**/*.trans.txt"), None):
        return read_librispeech(path, report)
    raise DataError(
        f"{path} is neither a .jsonl manifest, a .csv table, a Common Voice .tsv, an LJSpeech folder (metadata.csv) "
        "nor a LibriSpeech folder (*.trans.txt)"
    )
