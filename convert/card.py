"""The model card: what a package is, in Markdown, made from what `ModelInfo` says."""

from __future__ import annotations

from collections.abc import Sequence

from edge_stt.package import ModelInfo

from .parity import Parity
from .parity_report import summary


def model_card(
    info: ModelInfo,
    tflite_bytes: int,
    notes: str = "",
    parity: Parity | None = None,
    dev: str = "",
    keep_float: Sequence[str] = (),
) -> str:
    """Text of ``MODEL_CARD.md``; ``notes`` (Markdown) says what the model was trained on and is for.

    ``parity`` was measured on the set called ``dev``; the layers in ``keep_float`` were not quantised.
    """
    heads = "; ".join(f"{name}: {len(units)} {units.kind} ({units.name})" for name, units in info.heads.items())
    rows = [
        ("Architecture", f"{info.architecture.get('family')}, {info.architecture.get('parameters', 0):,} parameters"),
        *([("Language", f"{info.language['name']}, {info.normaliser.name}")] if info.language else []),
        ("Outputs", heads),
        ("Quantization", f"{info.quantization}, model.tflite {tflite_bytes / 1e6:.1f} MB"),
        *([("Layers in float32", ", ".join(keep_float))] if keep_float else []),
        *([("Proved on", ", ".join(info.runtimes))] if info.runtimes else []),
        ("Front end", f"{info.front_end.n_mels} log-mel bins, {info.front_end.sample_rate} Hz"),
        ("Output frames", f"one per {1000 * info.stride / info.front_end.frames_per_second:.0f} ms"),
        ("Lookahead", f"{10 * info.stride * info.lookahead} ms"),
        ("Training run", info.run),
        ("Licence", info.licence),
    ]
    lines = [f"# {info.name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]
    if info.metrics:
        lines += ["## Measured", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in sorted(info.metrics.items())]
        lines.append("")
    if parity is not None:
        lines += summary(parity, dev)
    return "\n".join([*lines, notes.strip(), ""])
