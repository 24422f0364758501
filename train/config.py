"""Everything a training run is made of, as frozen dataclasses read from TOML. Unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from edge_stt.errors import DataError

from .augment import SpecAugmentConfig
from .limits import check, check_all
from .models.configs import ConvConfig, config_class

T = TypeVar("T")
HEAD_WEIGHTS = {"characters": 0.4, "phonemes": 0.6}  # not every language has both heads


@dataclass(frozen=True)
class BatchConfig:
    """How clips become batches. Weights say how often each variant of the prepared set is taken."""

    seconds: float = 80.0  # of audio in a batch, padding included
    variant_weights: dict[str, float] = field(
        default_factory=lambda: {"plain": 0.4, "speed-0.9": 0.22, "speed-1.1": 0.22, "room-0": 0.16}
    )
    corpus_weights: dict[str, float] = field(default_factory=dict)  # times that an epoch takes each clip of a corpus
    warp: float = 0.08  # largest change of frequency, as a share
    tempo: float = 0.0  # largest change of tempo, as a share
    running_share: float = 0.5  # of the clips, how many are normalised causally; the others as whole utterances
    curriculum_epochs: int = 1  # epochs in which batches come shortest first
    masked_statistics: bool = False  # normalisations learn nothing from padding; slower on a CPU
    consistency_weight: float = 0.0  # above 0, batches have two views of each clip, whose outputs are drawn together

    def __post_init__(self) -> None:
        check(
            "batches.",
            self,
            warp=(0, 0.5),
            tempo=(0, 0.5),
            running_share=(0, 1),
            curriculum_epochs=(0, inf),
            consistency_weight=(0, inf),
        )
        check_all("batches.variant_weights", self.variant_weights)
        for name in self.variant_weights:
            if not re.fullmatch(r"plain|speed-\d+(\.\d+)?|room-\d+", name):
                raise DataError(
                    f"config: batches.variant_weights has {name!r}; variants are plain, speed-0.9 and other speeds, "
                    "room-0, room-1 and so on"
                )

    @property
    def views(self) -> int:
        """How often a batch has each of its clips, one after another."""
        return 2 if self.consistency_weight > 0 else 1


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, with linear warm-up and a cosine to zero (I. Loshchilov and F. Hutter, ICLR 2019; `train.muon`).

    ``decay_share``: the cosine takes this share of the steps after the warm-up, at their end. Below 1 the rate stays at
    its peak before, and a run can be given more steps without having been slowed down already.
    """

    name: str = "adamw"  # or "muon", whose kernels move by `momentum`
    learning_rate: float = 1.5e-3
    momentum: float = 0.95
    warmup_steps: int = 500
    decay_share: float = 1.0
    weight_decay: float = 1e-2
    clip_norm: float = 3.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise DataError(f"config: optimizer.name must be adamw or muon, not {self.name!r}")
        below_1 = dict.fromkeys(("momentum", "ema_decay"), (0, 0.999999))
        check("optimizer.", self, warmup_steps=(0, inf), decay_share=(0, 1), weight_decay=(0, inf), **below_1)


@dataclass(frozen=True)
class TeacherConfig:
    """Finished runs, whose outputs are learned beside the labels (`train.teacher`)."""

    runs: tuple[str, ...] = ()  # their folders; of several, the mean of what they say
    weight: float = 1.0  # of the divergence from them, where the labels' loss counts 1

    def __post_init__(self) -> None:
        check("teacher.", self, weight=(0, inf))


@dataclass(frozen=True)
class TrainConfig:
    """One training run. ``language`` is a name, or the path of a file (`edge_stt.language`).

    ``patience``: scorings on dev without a better one after which it ends early; 0 for never.
    """

    name: str = "conv-3m"
    language: str = "english"
    seed: int = 7
    steps: int = 10_000
    eval_every: int = 500
    checkpoint_every: int = 250
    patience: int = 0
    mixed_bfloat16: bool = False
    head_weights: dict[str, float] = field(default_factory=HEAD_WEIGHTS.copy)
    batches: BatchConfig = field(default_factory=BatchConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    model: Any = field(default_factory=ConvConfig)  # the config of an architecture: `models.configs`

    def __post_init__(self) -> None:
        positive = {
            "steps": self.steps,
            "eval_every": self.eval_every,
            "checkpoint_every": self.checkpoint_every,
            "batches.seconds": self.batches.seconds,
            **{f"batches.corpus_weights.{name}": weight for name, weight in self.batches.corpus_weights.items()},
            "optimizer.learning_rate": self.optimizer.learning_rate,
            "optimizer.clip_norm": self.optimizer.clip_norm,
        }
        for name, value in positive.items():
            if value <= 0:
                raise DataError(f"config: {name} must be above 0, not {value}")
        check("", self, patience=(0, inf), seed=(0, inf))
        check("spec_augment.", self.spec_augment, frequency_width=(0, self.model.n_mels))
        check_all("head_weights", self.head_weights)

    def check_heads(self, heads: Iterable[str]) -> None:
        """Raise `DataError` where a setting is of a head that the model has not, or no head learns anything."""
        known = list(heads)
        if unknown := sorted(set(self.head_weights) - {*known, *HEAD_WEIGHTS}):
            raise DataError(f"config: head_weights has {unknown[0]!r}; the heads are {', '.join(known)}")
        if not any(self.head_weights.get(head, 1.0) for head in known):
            raise DataError(f"config: head_weights are all 0; one of {', '.join(known)} must be above")
        self.model.check_heads(known)


def from_dict(cls: type[T], data: dict[str, Any], where: str = "config") -> T:
    """Build a (nested) dataclass from plain data; raises `DataError` for unknown keys and wrong types."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise DataError(f"{where}: unknown key {key!r}{hint}")
        values[key] = _checked(key, value, _default(fields[key]), hints[key], where)
    return cls(**values)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _checked(key: str, value: Any, default: Any, hint: Any, where: str) -> Any:
    """``value`` in the type of the field, whose ``default`` and type ``hint`` are given."""
    if dataclasses.is_dataclass(default):
        if not isinstance(value, dict):
            raise DataError(f"{where}: {key} is a table")
        chosen = config_class(str(value.get("family", "conv"))) if key == "model" else type(default)
        return from_dict(chosen, value, f"{where}.{key}")
    if isinstance(default, tuple):
        (kind, _) = get_args(hint)
        if kind is str and isinstance(value, str):
            value = [value]  # one alone
        if not isinstance(value, list | tuple):
            raise DataError(f"{where}: {key} must be a list, not {value!r}")
        return tuple(_plain(f"an item of {key}", item, kind, where) for item in value)
    if isinstance(default, dict):
        (_, kind) = get_args(hint)
        if not isinstance(value, dict):
            raise DataError(f"{where}: {key} is a table")
        return {name: _plain(f"{key}.{name}", item, kind, where) for name, item in value.items()}
    return _plain(key, value, type(default), where)


def _plain(key: str, value: Any, kind: type, where: str) -> Any:
    """``value`` as text, a number, or true or false."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        wanted = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
        hint = "; in an override a name with a dot stands in double quotes" if isinstance(value, dict) else ""
        raise DataError(f"{where}: {key} must be {wanted}, not {value!r}{hint}")
    return value


def _assignment(override: str) -> tuple[list[str], Any]:
    """The key and the value of ``section.key=value``; names with dots stand in quotes, as in TOML.

    What is no value of TOML is text: words need no quotes.
    """
    for end in (i for i, character in enumerate(override) if character == "="):  # quoted names may have one, too
        try:
            table: Any = tomllib.loads(f"{override[:end]} = 0")
        except tomllib.TOMLDecodeError:
            continue
        key = []
        while isinstance(table, dict) and table:
            [(name, table)] = table.items()
            key.append(name)
        if not key:  # a comment
            continue
        try:
            return key, tomllib.loads(f"x = {override[end + 1 :]}")["x"]
        except tomllib.TOMLDecodeError:
            return key, override[end + 1 :]
    raise DataError(f"an override is section.key=value, names with dots in double quotes, not {override!r}")


def load_config(path: Path | None, overrides: list[str] | None = None) -> TrainConfig:
    """Read a TOML file and apply ``section.key=value`` overrides (values in TOML syntax)."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
        for override in overrides or []:
            key, value = _assignment(override)
            *sections, last = key
            table, default = data, cast(Any, TrainConfig())
            for section in sections:
                default = getattr(default, section, None)
                # One weight of several is set, and the others stay what they are, defaults included.
                table = table.setdefault(section, dict(default) if isinstance(default, dict) else {})
                if not isinstance(table, dict):
                    raise DataError(f"config: {section} is no table, in which {last} could be set")
            table[last] = value
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    return from_dict(TrainConfig, data)


def config_of_run(run: Path) -> TrainConfig:
    """The config that a run directory records; raises `DataError` when it is not one."""
    try:
        data = json.loads((run / "config.json").read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise DataError(f"{run} is not a training run (it has no readable config.json): {error}") from error
    return from_dict(TrainConfig, data, f"{run}/config.json")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain data of a config, for JSON."""
    return dataclasses.asdict(config)
