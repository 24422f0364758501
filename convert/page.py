"""The measured part of docs/conversion.md: every mode, calibration sets of several sizes, the layers, and a picture."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_stt.errors import EdgeSttError
from edge_stt.files import write_atomically
from edge_stt.plot import COLOURS, require_matplotlib
from edge_stt.report import markdown_line

from .build import BuildConfig, Product, Say, convert_run, exported, make_trial, measure_layers, to_tflite
from .calibration import calibration_clips
from .graph import load_run
from .parity import Parity, ParityGate, dev_clips
from .parity_report import markdown
from .sensitivity import LayerNoise

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PICTURE, DATA = "conversion.svg", "conversion.json"


@dataclass(frozen=True)
class Figures:
    """What the page shows. ``calibrated`` are int8 by the number of representative clips."""

    run: str
    machine: str
    dev: str
    modes: list[Parity]
    calibrated: dict[int, Parity]
    layers: list[LayerNoise]


def measure_page(run: Path, config: BuildConfig, counts: Sequence[int], say: Say = lambda text: None) -> Figures:
    """Convert and measure everything; limits are not enforced, since a page tells and does not ship.

    Raises `EdgeSttError` when a mode does not convert, and what `convert_run` raises.
    """
    assert config.data is not None
    assert config.dev is not None
    from edge_stt.machine import machine

    model = load_run(run)
    with tempfile.TemporaryDirectory() as folder, exported(model) as saved:
        products = convert_run(run, Path(folder) / "all", replace(config, quantize="all", force=True), say)
        failed = [product.error for product in products if product.error]
        if failed:
            raise EdgeSttError(str(failed[0]))
        clips = dev_clips(config.dev, config.gate.clips, model)
        trials = {}
        for count in counts:
            calibration = calibration_clips(config.data, count, model)
            content = to_tflite(model, "int8", calibration, saved_model=saved)
            product = Product("int8", Path(folder), content=content)
            trials[str(count)] = make_trial(Path(folder) / str(count), product, model, config, None)
            say(f"int8 with {count} clips converted")
        found = {int(p.mode): p for p in ParityGate(model, clips, config.gate).measure(trials)}
        noises = measure_layers(model, "int8", calibration_clips(config.data, config.calibration_clips, model), saved)
    host = machine()
    return Figures(
        f"{model.config.name}@{model.step}",
        f"{host.cpu}, {host.cores} cores",
        f"{config.dev.parent.name} {config.dev.stem}",
        [product.parity for product in products if product.parity],
        found,
        noises,
    )


def page_section(figures: Figures) -> str:
    """Markdown between the marks."""
    first = figures.modes[0]
    calibrated = [
        [str(count), f"{100 * p.agreement:.2f}", f"{p.rates['greedy'].wer.rate:.1f}", _points(p)]
        for count, p in sorted(figures.calibrated.items())
    ]
    layers = [
        [noise.layer, f"{noise.weights:,}", f"{noise.own_db:.1f}", f"{noise.output_db:.1f}", f"{100 * noise.share:.0f}"]
        for noise in figures.layers
    ]
    return "\n".join(
        [
            BEGIN,
            "",
            f"Run `{figures.run}` on {figures.machine}; {first.clips} clips ({first.seconds / 60:.0f} minutes, "
            f"{first.words} words) of {figures.dev}. Intervals are 95 % (bootstrap over clips), points are paired.",
            "",
            _transposed(figures.modes),
            "",
            f"![Word error rate against size and speed]({PICTURE})",
            "",
            "int8 by the number of representative clips:",
            "",
            _table(["clips", "argmax agreement %", "WER % greedy", "points against float"], calibrated),
            "",
            "int8, each layer quantised alone, worst first (ratios of signal to quantization noise):",
            "",
            _table(["layer", "weights", "its output, dB", "log-probabilities, dB", "share of the noise %"], layers),
            "",
            END,
        ]
    )


def _points(parity: Parity) -> str:
    change = parity.rates["greedy"].change
    return f"{change.points:+.2f} ({change.low:+.2f} to {change.high:+.2f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(map(markdown_line, lines))


def _transposed(modes: Sequence[Parity]) -> str:
    """The gate's table with a column a mode, as the command prints it."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown(modes).splitlines()]
    head, rows = cells[0], cells[2:]
    columns = [[name, *(row[number] for row in rows)] for number, name in enumerate(head)]
    return _table(["", *columns[0][1:]], columns[1:])


def picture(figures: Figures) -> str:
    """WER against speed and against size, as SVG; the lexicon's where it was measured."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    decoder = list(figures.modes[0].rates)[-1]
    panels: list[tuple[str, Callable[[Parity], float], bool]] = [
        ("RTF of the network, 1 thread (left is faster)", lambda p: p.rtf["1"], True),
        ("model.tflite, MB (left is smaller)", lambda p: p.model_bytes / 1e6, False),
    ]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edge-stt", "font.size": 9}):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        for axes, (label, value, logarithmic) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
            if logarithmic:
                axes.set_xscale("log")
            axes.set_xlabel(label)
            axes.grid(True, alpha=0.25)
            axes.margins(x=0.25, y=0.25)
            for number, parity in enumerate(figures.modes):
                _point(axes, parity, decoder, value(parity), number)
            axes.axhline(figures.modes[0].rates[decoder].float_wer, color="0.5", linewidth=1, linestyle="--")
        figure.axes[0].set_ylabel(f"WER %, {decoder} (dashed: Keras)")
        figure.axes[1].legend(fontsize=8, framealpha=0.6)
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def _point(axes: Any, parity: Parity, decoder: str, x: float, number: int) -> None:
    """A point with the interval of its difference from the float model: that is what a mode is judged by."""
    rates = parity.rates[decoder]
    change = rates.change
    margins = [[max(0.0, change.points - change.low)], [max(0.0, change.high - change.points)]]
    axes.errorbar(
        x, rates.wer.rate, yerr=margins, fmt="osD^v"[number % 5], color=COLOURS[number], capsize=2, label=parity.mode
    )


def write_page(figures: Figures, page: Path) -> None:
    """Put the measured part into the page, the picture and the figures beside it; raises `EdgeSttError`."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise EdgeSttError(f"cannot read {page}: {error.strerror}") from error
    if BEGIN not in text or END not in text:
        raise EdgeSttError(f"{page} has no place for the figures ({BEGIN} … {END})")
    before, after = text.split(BEGIN)[0], text.split(END, 1)[1]
    write_atomically(page.with_name(PICTURE), [picture(figures)])
    write_atomically(page.with_name(DATA), [json.dumps(asdict(figures), indent=1, sort_keys=True), "\n"])
    write_atomically(page, [before, page_section(figures), after])
