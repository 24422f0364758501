"""Settings as frozen dataclasses, read from TOML and from flags: one place for name, type, default and help of each.

A section is a frozen dataclass whose fields are made by `setting`; a configuration is a frozen dataclass of sections.
Types are str, int, float, bool, tuple[str, ...] or one of these or None. In TOML a section is a table.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .byte_streams import open_file, printable_path
from .errors import AudioError, UsageError

MAX_BYTES = 1 << 20  # of a configuration file


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type, or out of its range."""


def setting(
    default: Any,
    help: str,
    flag: str | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field with what TOML and the command line need: help, range or choices, and the flag's name.

    Without ``flag`` it is the field's name with dashes. A flag for tuple[str, ...] takes words as a shell splits them.
    """
    metadata = {"help": help, "flag": flag, "low": low, "high": high, "choices": tuple(choices)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting of a configuration: its dotted name, type without None, and what `setting` was told."""

    name: str
    type: type
    default: Any
    help: str
    flag: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def settings_of(config: type) -> Iterator[Setting]:
    """All settings of a configuration, in order."""
    for section, section_type in get_type_hints(config).items():
        hints = get_type_hints(section_type)
        for entry in fields(section_type):
            data = entry.metadata
            flag = data["flag"] or "--" + entry.name.replace("_", "-")
            yield Setting(
                f"{section}.{entry.name}",
                _plain(hints[entry.name]),
                entry.default,
                data["help"],
                flag,
                data["low"],
                data["high"],
                data["choices"],
            )


def _plain(hint: Any) -> type:
    """A type without ``| None``; ``tuple`` for any tuple."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    result: type = get_origin(hint) or hint
    return result


Config = TypeVar("Config")


def apply(config: Config, values: Mapping[str, Any], source: str = "") -> Config:
    """A configuration with other values, given by dotted names; raises `ConfigError`, naming ``source``.

    Without a ``source`` they are from the command line, and errors speak of flags. A name without a dot is that of a
    section in which nothing is set.
    """
    known = {entry.name: entry for entry in settings_of(type(config))}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if "." not in name:
            names = list(get_type_hints(type(config)))
            if name not in names:
                raise ConfigError(f"{source}: unknown section {name!r}{_nearest(name, names)}")
            continue
        if name not in known:
            raise ConfigError(f"{source}: unknown setting {name!r}{_nearest(name, list(known))}")
        section, key = name.split(".", 1)
        sections.setdefault(section, {})[key] = _checked(known[name], value, source)
    changed = {section: replace(getattr(config, section), **changes) for section, changes in sections.items()}
    return replace(config, **changed)  # type: ignore[type-var]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a TOML file by dotted names, a section without any by its own; raises `ConfigError`."""
    name = printable_path(path)
    try:
        with open_file(path, name) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{name}: larger than any configuration; name another file")
        data = tomllib.loads(content.decode("utf-8-sig"))
    except (AudioError, OSError) as error:  # AudioError: what open_file says of any file
        raise ConfigError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text; save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    values: dict[str, Any] = {}
    for section, table in data.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: {section!r} stands outside of any table; put it under a [section]")
        values.update({f"{section}.{key}": value for key, value in table.items()} or {section: {}})
    return values


def load(config: Config, path: str | os.PathLike[str] | None, flags: Mapping[str, Any]) -> Config:
    """A configuration with what a TOML file says, and over that what flags say."""
    if path is not None:
        config = apply(config, read_toml(path), printable_path(path))
    return apply(config, flags)


def to_toml(config: type) -> str:
    """All settings of a configuration as a TOML file in which every default stands as a comment."""
    lines: list[str] = []
    section = ""
    for entry in settings_of(config):
        table, key = entry.name.split(".", 1)
        if table != section:
            section = table
            lines += ["", f"[{section}]"]
        choices = f" One of {', '.join(entry.choices)}." if entry.choices else ""
        shown = json.dumps(entry.default) if entry.default is not None else "(not set)"
        lines += [f"# {entry.help}{choices}", f"# {key} = {shown}"]
    return "\n".join(lines[1:]) + "\n"


def differences(one: Any, other: Any) -> tuple[str, ...]:
    """Dotted names of the settings in which two configurations differ."""

    def value(config: Any, name: str) -> Any:
        section, key = name.split(".", 1)
        return getattr(getattr(config, section), key)

    return tuple(s.name for s in settings_of(type(one)) if value(one, s.name) != value(other, s.name))


def nearest(name: str, known: Sequence[str], count: int = 1) -> list[str]:
    """The ``count`` names most like ``name``, if any is like it at all."""
    return difflib.get_close_matches(name, known, n=count, cutoff=0.5)


def _nearest(name: str, known: Sequence[str]) -> str:
    found = nearest(name, known)
    if not found:  # the right key in the wrong section
        key = name.rpartition(".")[2]
        found = [entry for entry in known if entry.rpartition(".")[2] == key]
    return f"; did you mean {found[0]!r}?" if found else ""


def _checked(entry: Setting, value: Any, source: str) -> Any:
    """The value in the setting's type; raises `ConfigError` for one that is not of it or out of range."""
    label = f"{source}: {entry.name}" if source else entry.flag
    if entry.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if entry.type is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if not isinstance(value, entry.type) or (isinstance(value, bool) and entry.type is not bool):
        wanted = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise ConfigError(f"{label} must be {wanted.get(entry.type, 'a list of texts')}, not {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low = -math.inf if entry.low is None else entry.low
        high = math.inf if entry.high is None else entry.high
        if not low <= value <= high:  # so NaN is refused too
            if low == -math.inf and high == math.inf:
                raise ConfigError(f"{label} must be a number, not {value:g}")
            limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise ConfigError(f"{label} must be {limits}, not {value:g}")
    if entry.choices and value not in entry.choices:
        raise ConfigError(f"{label} must be one of {', '.join(entry.choices)}, not {value!r}")
    return value
