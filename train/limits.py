"""What settings may be, so that an impossible one is refused before anything is loaded."""

from __future__ import annotations

from math import inf
from typing import Any

from edge_stt.errors import DataError


def check(section: str, settings: Any, **ranges: tuple[float, float]) -> None:
    """Raise `DataError` where a number of the dataclass ``settings`` is not in its range, ends included."""
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            may = f"at least {least:g}" if most == inf else f"{least:g} to {most:g}"
            raise DataError(f"config: {section}{name} must be {may}, not {value}")


def check_all(section: str, values: dict[str, float], least: float = 0.0) -> None:
    """Raise `DataError` where one of several numbers is below ``least``."""
    for name, value in values.items():
        if value < least:
            raise DataError(f"config: {section}.{name} must be at least {least:g}, not {value}")
