"""The ways to quantise, and which of them a call may ask for: told without TensorFlow, which takes seconds to load."""

from __future__ import annotations

from collections.abc import Sequence

from edge_stt.errors import UsageError

CALIBRATED = ("int8", "int16x8")  # which need representative clips
LAYERED = ("dynamic", *CALIBRATED)  # which quantise layers, of which some can stay in float
MODES = ("float32", "float16", *LAYERED)


def modes_of(quantize: str) -> tuple[str, ...]:
    """The modes that a name stands for: itself, or for ``all`` every one."""
    return MODES if quantize == "all" else (quantize,)


def check_mode(name: str, known: Sequence[str]) -> None:
    """Raise `UsageError` for a mode that is none of the known."""
    if name not in known:
        raise UsageError(f"unknown quantization {name!r}; choose one of {', '.join(known)}")


def check_request(quantize: str, has_data: bool, keeps_float: bool) -> None:
    """Raise `UsageError` for a mode that is unknown, or lacks its clips, or has no layer that could stay in float."""
    check_mode(quantize, (*MODES, "all"))
    modes = modes_of(quantize)
    needing = [mode for mode in modes if mode in CALIBRATED]
    if needing and not has_data:
        raise UsageError(f"{needing[0]} needs representative clips: give a manifest with --data")
    if keeps_float and not set(modes) & set(LAYERED):
        raise UsageError(f"--keep-float: {quantize} has no layers that are not float")
