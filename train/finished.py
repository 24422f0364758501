"""What a finished run says of itself, without its network: for conversion, and for runs that learn from it.

Whether it can teach is known before Keras is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.errors import DataError
from edge_stt.features import FeatureStatistics, FrontEndConfig
from edge_stt.language import normaliser_of
from edge_stt.units import UnitSet

from .config import TrainConfig, config_of_run


@dataclass(frozen=True)
class FinishedRun:
    """A run directory with its config, and what its ``model.json`` says."""

    folder: Path
    config: TrainConfig
    heads: dict[str, UnitSet]
    front_end: FrontEndConfig
    statistics: FeatureStatistics
    language: dict[str, Any] = field(default_factory=dict)  # as `edge_stt.language.Language.to_package`

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Raises `DataError` where something is missing or damaged; the weights are not looked into."""
        config = config_of_run(folder)
        try:
            described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            heads = {name: UnitSet.from_data(units) for name, units in described["heads"].items()}
            front_end = FrontEndConfig(**described["front_end"])
            mean, std = (np.array(described["statistics"][key], np.float32) for key in ("mean", "std"))
            language = dict(described.get("language", {}))
            normaliser_of(language)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise DataError(f"{folder} cannot be used: its model.json is not readable ({error})") from error
        if not (folder / "best.npz").is_file():
            raise DataError(f"{folder} cannot be used: it has no best.npz, which comes with the first scoring on dev")
        return cls(folder, config, heads, front_end, FeatureStatistics(mean, std), language)


def teachers_of(config: TrainConfig, units: Mapping[str, UnitSet]) -> tuple[list[FinishedRun], list[str]]:
    """The runs that teach a model of these units, and the heads that all of them have like it.

    Raises `DataError` where a run cannot: it has none of the units, or another stride.
    """
    runs = [FinishedRun.read(Path(name)) for name in config.teacher.runs]
    common = list(units)
    for run in runs:
        common = [head for head in common if run.heads.get(head) == units[head]]
        if not common:
            raise DataError(f"{run.folder} cannot teach this model: its units are others")
        theirs, ours = run.config.model.stride, config.model.stride
        if theirs != ours:
            raise DataError(f"{run.folder} cannot teach this model: its stride is {theirs}, not {ours}")
    return runs, common
