"""What the gate measured, as a table, as JSON for the package, and as Markdown for its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edge_stt.report import markdown_line
from edge_stt.scoring import Interval

from .parity import DevClip, Parity
from .sensitivity import LayerNoise

if TYPE_CHECKING:
    from .build import BuildConfig, Product

FORMAT = 1


def parity_json(product: Product, source: str, clips: Sequence[DevClip], config: BuildConfig) -> bytes:
    """Text of ``parity.json``: every figure, the limits, and a hash that names the clips."""
    digest = hashlib.sha256("".join(f"{clip.id}\t{clip.reference}\n" for clip in clips).encode())
    parity = product.parity
    assert parity is not None
    data = {
        "format": FORMAT,
        **parity.to_data(),
        "limits": asdict(config.gate.limits),
        "forced": bool(parity.problems),
        "dev": source,
        "dev_sha256": digest.hexdigest(),
        "keep_float": list(product.keep_float),
        "layers": [asdict(noise) for noise in product.layers],
        "calibration_clips": config.calibration_clips if config.data else 0,
        "proofs": [proof.to_data() for proof in product.proofs],
    }
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _interval(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.rate:.1f}"
    return f"{value.rate:.1f} ({value.low:.1f}–{value.high:.1f})"


def columns(parity: Parity) -> list[tuple[str, str]]:
    """Heads and cells of one row."""
    worst = max(parity.heads.values(), key=lambda head: head.mean_difference)
    cells = [
        ("mode", parity.mode),
        ("MB", f"{parity.model_bytes / 1e6:.2f}"),
        ("argmax agreement %", f"{100 * parity.agreement:.2f}"),
        ("|Δ log p| mean", f"{worst.mean_difference:.4f}"),
        ("max", f"{max(head.max_difference for head in parity.heads.values()):.3f}"),
    ]
    for decoder, rates in parity.rates.items():
        change = rates.change
        cells += [
            (f"CER % {decoder}", _interval(rates.cer)),
            (f"WER % {decoder}", _interval(rates.wer)),
            (
                "points against float" if len(parity.rates) == 1 else f"points, {decoder}",
                f"{change.points:+.2f} ({change.low:+.2f} to {change.high:+.2f})",
            ),
        ]
    cells += [(f"RTF, {count} thread{'s' * (count != '1')}", f"{rtf:.5f}") for count, rtf in parity.rtf.items()]
    if parity.stream:
        agreement = min(head.agreement for head in parity.stream.values())
        difference = max(head.max_difference for head in parity.stream.values())
        cells.append(("stream = offline %", f"{100 * agreement:.2f} (|Δ| ≤ {difference:.1e})"))
    return cells


def markdown(parities: Sequence[Parity]) -> str:
    """A Markdown table, a row a mode."""
    rows = [columns(parity) for parity in parities]
    longest: list[tuple[str, str]] = max(rows, key=len)
    heads = [head for head, _ in longest]
    lines = [heads, ["---"] * len(heads), *([cell for _, cell in row] for row in rows)]
    return "\n".join(map(markdown_line, lines))


def table(products: Sequence[Product]) -> Any:
    """A rich table: one column a mode, since there are more figures than a terminal is wide."""
    from rich.table import Table

    measured = [product for product in products if product.parity is not None]
    out = Table(title=None, show_lines=False)
    out.add_column("")
    cells = []
    for product in measured:
        assert product.parity is not None
        state = "refused" if product.error else ("forced" if product.parity.problems else "written")
        cells.append([*columns(product.parity), ("", state)])
        out.add_column(product.mode, justify="right")
    longest: list[tuple[str, str]] = max(cells, key=len, default=[])
    for number, (head, _) in enumerate(longest):
        if number:
            out.add_row(head, *(row[number][1] if number < len(row) else "" for row in cells))
    return out


def layer_table(title: str, noises: Sequence[LayerNoise]) -> Any:
    """A rich table: what each layer costs when it alone is quantised, worst first."""
    from rich.table import Table

    out = Table(title=title)
    for head in ("layer", "weights", "SQNR of its output, dB", "of log-probabilities, dB", "share of the noise %"):
        out.add_column(head, justify="left" if head == "layer" else "right")
    for noise in noises:
        figures = (f"{noise.own_db:.1f}", f"{noise.output_db:.1f}", f"{100 * noise.share:.1f}")
        out.add_row(noise.layer, f"{noise.weights:,}", *figures)
    return out


def summary(parity: Parity, source: str) -> list[str]:
    """The card's section on parity, as lines of Markdown."""
    minutes = parity.seconds / 60
    lines = [
        "## Parity with the float model",
        "",
        f"{parity.clips} clips ({minutes:.1f} minutes, {parity.words} words) of {source}; float is the Keras model.",
        "",
        "| | |",
        "|---|---|",
    ]
    for decoder, rates in parity.rates.items():
        lines.append(f"| WER % {decoder} (float) | {_interval(rates.wer)} ({rates.float_wer:.1f}) |")
        lines.append(f"| CER % {decoder} (float) | {_interval(rates.cer)} ({rates.float_cer:.1f}) |")
    for name, head in parity.heads.items():
        lines.append(
            f"| {name}: frames with the same unit, mean and max \\|Δ log p\\| | {100 * head.agreement:.2f} %, "
            f"{head.mean_difference:.4f}, {head.max_difference:.3f} |"
        )
    for name, head in parity.stream.items():
        lines.append(f"| {name}: streaming against offline, frames with the same unit | {100 * head.agreement:.2f} % |")
    lines.append("")
    if parity.problems:
        lines += ["**This package is beyond the limits of the parity gate and was written by force:**", ""]
        lines += [*(f"* {problem}" for problem in parity.problems), ""]
    return lines


def result(products: Sequence[Product]) -> dict[str, Any]:
    """For ``--json``: what became of each mode."""
    return {
        "format": FORMAT,
        "results": [
            {
                "mode": product.mode,
                "out": str(product.out),
                "written": product.package is not None,
                "error": product.error,
                "seconds": round(product.seconds, 2),
                "parity": product.parity.to_data() if product.parity else None,
                "keep_float": list(product.keep_float),
                "layers": [asdict(noise) for noise in product.layers],
                "proofs": [proof.to_data() for proof in product.proofs],
            }
            for product in products
        ],
    }
