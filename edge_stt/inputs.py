"""What the arguments of `edge-stt transcribe` stand for: files, folders, patterns; and where results go."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from .byte_streams import printable_path
from .outputs import WRITERS

_READ = ".wav .wave .w64 .rf64 .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .caf .sph .nist"
AUDIO_SUFFIXES = frozenset(_READ.split())
# Sound that people have lying about and that libsndfile does not read: named, not passed over in silence.
_NOT_READ = ".m4a .m4b .aac .mp4 .wma .amr .3gp .webm .mka .mkv .mov .ape .wv"
FOREIGN_SUFFIXES = frozenset(_NOT_READ.split())


@dataclass(frozen=True)
class Recording:
    """A sound file, and the name its results have: its own, and below a folder that was given the way to it."""

    path: Path
    name: PurePath


@dataclass
class Found:
    """What was found: recordings in order, without repeats; ``missing`` are arguments that gave nothing, and why."""

    recordings: list[Recording] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path, name: PurePath) -> None:
        """Add a recording that is not there yet."""
        self.recordings.append(Recording(path, name))


def find_recordings(arguments: Sequence[Path]) -> Found:
    """Files as they are given; folders at any depth and patterns (``*``, ``?``, ``[…]``, ``**``) in order of name.

    In folders, what the name's ending does not call sound is passed over, as is what begins with a dot. A file that
    does not exist stays in the list: reading it will say so.
    """
    found = Found()
    for path in arguments:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            _search_folder(path, found)
        elif _is_pattern(path):
            _search_pattern(path, found)
        else:
            found.add(path, PurePath(path.name))
    unique = {os.path.abspath(r.path): r for r in reversed(found.recordings)}  # noqa: PTH100 - links are kept apart
    found.recordings = [r for r in found.recordings if unique.get(os.path.abspath(r.path)) is r]  # noqa: PTH100
    return found


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(os.fspath(path)) and not os.path.lexists(path)


def _search_pattern(pattern: Path, found: Found) -> None:
    before = len(found.recordings)
    # Links to folders are followed, and may lead to where something else of the pattern leads: the shortest way counts.
    shortest: dict[tuple[str, str], str] = {}
    for match in sorted(_matches(pattern.parts), key=lambda match: (match.count(os.sep), os.fsencode(match))):
        folder, name = os.path.split(match)
        shortest.setdefault((os.path.realpath(folder), name), match)
    for match in sorted(shortest.values(), key=os.fsencode):
        path = Path(match)
        if path.is_dir():
            if "**" not in pattern.parts:  # which gives the files below by itself
                _search_folder(path, found)
        else:
            found.add(path, PurePath(path.name))
    if len(found.recordings) == before:
        found.missing.append(f"{printable_path(pattern)}: no file has such a name; check the pattern")


def _matches(parts: Sequence[str]) -> Iterator[str]:
    """What has such a path. `glob` would go round for ever where two links lead back to a folder above them."""
    if "**" not in parts:
        yield from glob.glob(os.path.join(*parts))  # noqa: PTH118, PTH207 - a Path takes names that begin with a dot
        return
    at = parts.index("**")
    rest = parts[at + 1 :] or ["*"]
    for top in glob.glob(os.path.join(*parts[:at], "")) if at else [""]:  # noqa: PTH118, PTH207
        for folder in _folders(top):
            yield from _matches([glob.escape(folder), *rest])


def _folders(top: str) -> Iterator[str]:
    """A folder and those below, each once whatever links lead to it, by the shortest way; each ends with a slash."""
    seen = {os.path.realpath(top)}
    level = [top]
    while level:
        yield from level
        below: list[str] = []
        for folder in level:
            for inner in sorted(glob.glob(glob.escape(folder) + "*/"), key=os.fsencode):  # noqa: PTH207
                if (real := os.path.realpath(inner)) not in seen:
                    seen.add(real)
                    below.append(inner)
        level = below


def _is_special(path: Path) -> bool:
    """Whether it is a named pipe, a device or the like, where reading may wait for ever."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 - these never raise


def _search_folder(folder: Path, found: Found) -> None:
    foreign: Counter[str] = Counter()
    before = len(found.recordings)

    def unreadable(error: OSError) -> None:
        found.missing.append(f"{printable_path(error.filename)}: cannot be listed ({error.strerror})")

    unlisted = len(found.missing)
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=os.fsencode)
        for name in sorted(files, key=os.fsencode):
            path = Path(parent, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix in AUDIO_SUFFIXES and not _is_special(path):
                found.add(path, path.relative_to(folder))
            elif suffix in FOREIGN_SUFFIXES:
                foreign[suffix] += 1
    if foreign:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(foreign.items()))
        found.notes.append(
            f"{printable_path(folder)}: left out what is not read here ({kinds}); "
            "convert it: ffmpeg -i FILE -ar 16000 -ac 1 out.wav"
        )
    if len(found.recordings) == before and len(found.missing) == unlisted:
        found.missing.append(f"{printable_path(folder)}: no sound files in this folder; name the files themselves")


def output_paths(
    recordings: Sequence[Recording], folder: Path, formats: Sequence[str], keep_suffix: bool = False
) -> list[dict[str, Path] | str]:
    """For each recording a file a format, below ``folder`` as the recording was below the folder given.

    In place of files that are to be read themselves, or are another recording's already, stands why it cannot be.
    """
    inputs = {os.path.abspath(r.path) for r in recordings}  # noqa: PTH100
    taken: dict[str, Recording] = {}
    planned: list[dict[str, Path] | str] = []
    for recording in recordings:
        stem = recording.name if keep_suffix else _without_suffix(recording.name)
        outputs = {kind: folder / stem.with_name(stem.name + WRITERS[kind].suffix) for kind in formats}
        keys = {os.path.abspath(path): path for path in outputs.values()}  # noqa: PTH100
        name = printable_path(recording.path)
        if read := [path for key, path in keys.items() if key in inputs]:
            planned.append(f"{name}: {printable_path(read[0])} is itself to be read; choose another folder")
        elif met := [(taken[key], path) for key, path in keys.items() if key in taken]:
            (other, path), *_ = met
            same = other.name.name == recording.name.name
            advice = "give the folder above both" if same else "--keep-suffix gives each a file of its own"
            shown, first = printable_path(path), printable_path(other.path)
            planned.append(f"{name}: would be written to {shown}, as {first} is; {advice}")
        else:
            taken.update(dict.fromkeys(keys, recording))
            planned.append(outputs)
    return planned


def _without_suffix(name: PurePath) -> PurePath:
    """A name without an ending that says sound; ``meeting 12.30`` stays whole."""
    return name.with_suffix("") if name.suffix.lower() in AUDIO_SUFFIXES | FOREIGN_SUFFIXES else name
