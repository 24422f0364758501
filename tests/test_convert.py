"""Conversion: every mode on both architectures, what stays float, what is looked at, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_stt.errors import EdgeSttError, UsageError
from edge_stt.package import ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL
from edge_stt.units import UnitSet

from .conftest import ROOT
from .small_run import CONV, DS2, small_run

pytestmark = pytest.mark.workstation
CLIP = ROOT / "tests" / "data" / "LJ002-0044.opus"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("run"), **CONV)


@pytest.fixture(scope="module")
def manifest() -> Path:
    return ROOT / "tests" / "data" / "clips.jsonl"


@pytest.fixture(scope="module")
def saved(run: Path) -> Iterator[Path]:
    from convert.build import exported
    from convert.graph import load_run

    with exported(load_run(run)) as folder:
        yield folder


@pytest.fixture(scope="module")
def calibration(run: Path, manifest: Path, saved: Path) -> Path:
    from convert.calibration import calibration_clips
    from convert.graph import load_run

    path = saved.parent / "calibration.npz"
    np.savez(path, *calibration_clips(manifest, 3, load_run(run)))
    return path


@pytest.fixture(scope="module")
def files(saved: Path, calibration: Path) -> dict[str, bytes]:
    """Every mode; here in this process, which the small network does not crash."""
    from convert.build import MODES
    from convert.child import convert

    return {mode: convert(saved, mode, calibration) for mode in MODES}


@pytest.fixture(scope="module")
def packages(run: Path, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPackage]:
    from convert.build import BuildConfig, Product, make_trial
    from convert.graph import load_run

    model, folder = load_run(run), tmp_path_factory.mktemp("packages")
    return {
        mode: make_trial(
            folder / mode, Product(mode, folder / mode, content=content), model, BuildConfig("small"), None
        )
        for mode, content in files.items()
    }


def test_every_mode_is_near_the_float_model_and_streams(
    run: Path, packages: dict[str, ModelPackage], manifest: Path
) -> None:
    from convert.graph import load_run
    from convert.parity import GateConfig, ParityGate, dev_clips

    model = load_run(run)
    clips = dev_clips(manifest, 3, model)
    assert len(clips) == 3
    gate = ParityGate(model, clips, GateConfig(timed_clips=1, repeats=1, threads=(1,)))
    found = {parity.mode: parity for parity in gate.measure(packages)}
    assert list(found) == ["float32", "float16", "dynamic", "int8", "int16x8"]
    wanted = {"float32": 1.0, "float16": 0.995, "dynamic": 0.95, "int8": 0.9, "int16x8": 0.95}
    for mode, parity in found.items():
        assert parity.agreement >= wanted[mode], mode
        assert parity.clips == 3
        assert parity.rtf["1"] > 0
        assert parity.rates["greedy"].wer.rate >= 0
    assert max(head.max_difference for head in found["float32"].stream.values()) < 1e-5
    for mode in ("int8", "int16x8"):  # both signatures round alike: their ranges are the same
        assert all(head.agreement == 1.0 and head.max_difference < 1e-3 for head in found[mode].stream.values()), mode
    assert found["int8"].model_bytes < 0.7 * found["float32"].model_bytes


def test_only_allowed_operators_and_others_are_named(files: dict[str, bytes]) -> None:
    from convert.flatbuffer import TfliteFile
    from convert.operators import OperatorError, check_operators

    for content in files.values():
        check_operators(content)
    file = TfliteFile(files["float32"])
    (op,) = (op for op in file.operators("offline") if op.name == "CONV_2D" and "block_1_conv_2" in _output(file, op))
    code = file.model.operatorCodes[file.graphs["offline"].operators[op.index].opcodeIndex]
    custom = type(code)()
    custom.customCode, custom.builtinCode, custom.deprecatedBuiltinCode, custom.version = b"FlexErf", 32, 32, 1
    file.model.operatorCodes.append(custom)
    file.graphs["offline"].operators[op.index].opcodeIndex = len(file.model.operatorCodes) - 1
    with pytest.raises(OperatorError, match="custom:FlexErf in block_1_conv_2"):
        check_operators(file.to_bytes())


def _output(file: Any, op: Any) -> str:
    return file.name(op.graph, op.outputs[0])


def test_taken_apart_and_put_together_a_file_is_the_same(
    packages: dict[str, ModelPackage], files: dict[str, bytes], tmp_path: Path
) -> None:
    from convert.flatbuffer import TfliteFile
    from edge_stt.interpreter import AcousticModel

    package = packages["int8"]
    contents = {name: package.read(name) for name in package.files}
    contents["model.tflite"] = TfliteFile(files["int8"]).to_bytes()
    again = write_package(tmp_path / "again", package.info, contents)
    golden = package.golden()
    for head, log_probs in AcousticModel(again).offline(golden["log_mel"][0]).items():
        np.testing.assert_array_equal(log_probs, golden[head][0])


def test_layers_that_are_kept_in_float(saved: Path, calibration: Path, files: dict[str, bytes]) -> None:
    from convert.child import convert
    from convert.flatbuffer import TfliteFile, layer_operators

    for mode in ("dynamic", "int8"):
        file = TfliteFile(convert(saved, mode, calibration, ["block_1_conv_1"]))
        for layer, kind in (("block_1_conv_1", "FLOAT32"), ("block_1_conv_2", "INT8")):
            operators = layer_operators(file, layer)
            assert {op.graph for op in operators} == {"offline", "stream"}
            assert {file.type(op.graph, op.inputs[1]) for op in operators} == {kind}, (mode, layer)
        source = TfliteFile(files["float32"])
        (kept, original) = (layer_operators(f, "block_1_conv_1")[0] for f in (file, source))
        np.testing.assert_array_equal(
            file.values(kept.graph, kept.inputs[1]), source.values(original.graph, original.inputs[1])
        )


def test_the_noise_of_each_layer(files: dict[str, bytes], calibration: Path) -> None:
    """A layer whose weights are spoiled is the worst one, and the one that is kept."""
    from convert.child import with_float_weights
    from convert.flatbuffer import TfliteFile, layer_operators
    from convert.sensitivity import layer_names, layer_noise, worst_layers

    with np.load(calibration) as file:
        clips = list(file.values())[:1]
    layers = layer_names(files["float32"])
    assert layers == ["stem_1", "stem_2", "block_1_conv_1", "block_1_conv_2", "head_characters", "head_phonemes"]

    def alone(layer: str) -> bytes:
        others = [other for other in layers if other != layer]
        content = with_float_weights(files["dynamic"], files["float32"], others)
        if layer != "stem_2":
            return content
        spoiled = TfliteFile(content)
        (op, *_) = layer_operators(spoiled, layer)
        coarse = np.sign(spoiled.values(op.graph, op.inputs[1])) * 0.05
        for other in layer_operators(spoiled, layer):
            spoiled.replace_constant(other.graph, other.inputs[1], coarse)
        return spoiled.to_bytes()

    noises = layer_noise(files["float32"], clips, alone)
    assert noises[0].layer == "stem_2"
    assert noises[0].own_db < 15 < min(noise.own_db for noise in noises[1:])
    assert sum(noise.share for noise in noises) == pytest.approx(1.0)
    assert worst_layers(noises) == ("stem_2",)


def test_clips_are_spread_over_speakers_and_lengths() -> None:
    from convert.calibration import choose_clips
    from edge_stt.corpora import Clip

    clips = [Clip(f"{s}{n}", "c", s, CLIP, float(n), "a", "") for s in "ab" for n in range(8)] + [
        Clip("c0", "c", "c", CLIP, 1.0, "a", "")
    ]
    chosen = choose_clips(clips, 7)
    assert [clip.id for clip in chosen] == ["a0", "b0", "c0", "a4", "b4", "a2", "b2"]
    for count in (1, 16, 17, 99):
        assert len({clip.id for clip in choose_clips(clips, count)}) == min(count, 17)
    assert choose_clips([], 5) == []


def test_ranges_cut_what_is_rare() -> None:
    from convert.ranges import Observed, best_range

    rng = np.random.default_rng(0)
    seen = Observed()
    values = np.abs(rng.normal(size=200_000)).astype(np.float32)
    values[77] = 60.0
    seen.add(values, rng)
    low, high = best_range(seen, 8)
    assert low == 0.0
    assert 3.0 < high < 60.0
    low, high = best_range(seen, 16)
    assert high == 60.0
    assert low == pytest.approx(-60.0, rel=1e-4)


def test_both_signatures_have_the_same_activations(files: dict[str, bytes]) -> None:
    from convert.flatbuffer import TfliteFile
    from convert.ranges import identities

    file = TfliteFile(files["float32"])
    offline, stream = (set(identities(file, graph).values()) for graph in ("offline", "stream"))
    assert stream - offline == {"mask"}
    assert len(offline) == 10  # log-mel, two stems, two convolutions and their sum, two heads, two log-softmaxes


def test_inspect_and_diff(packages: dict[str, ModelPackage]) -> None:
    from convert.cli import app

    dynamic, int8 = str(packages["dynamic"].path), str(packages["int8"].path)
    done = CliRunner().invoke(app, ["inspect", int8, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["signatures"]) == {"offline", "stream"}
    assert found["signatures"]["offline"]["inputs"] == {"log_mel": "FLOAT32 [1, -1, 80]"}
    layer = next(layer for layer in found["layers"] if layer["name"] == "stem_2")
    assert (layer["weights"], layer["activations"], layer["scales"], layer["size"]) == ("INT8", "INT8", 24, 24 * 16 * 5)
    assert found["files"]["model.tflite"] == len(packages["int8"].read("model.tflite"))
    assert found["foreign"] == {}
    assert "stem_2" in CliRunner().invoke(app, ["inspect", int8]).stdout

    done = CliRunner().invoke(app, ["diff", dynamic, dynamic])
    assert "no difference" in done.stdout
    done = CliRunner().invoke(app, ["diff", dynamic, int8, "--json", "--audio", str(CLIP)])
    changed = json.loads(done.stdout)
    assert changed["metadata"] == {"quantization": ["dynamic", "int8"]}
    assert changed["operators"]["offline QUANTIZE"] == [0, 1]
    assert changed["clips"] == 1


def test_a_package_is_proved_and_that_is_recorded(packages: dict[str, ModelPackage], tmp_path: Path) -> None:
    from convert.prove import prove, record_runtimes

    package = packages["dynamic"]
    proof = prove(package, sys.executable)
    assert proof.runtime.startswith("ai-edge-litert ")
    assert proof.agreement == 1.0
    assert proof.max_difference < 1e-5
    contents = {name: package.read(name) for name in package.files}
    copy = write_package(tmp_path / "copy", package.info, contents)
    assert record_runtimes(copy, [proof, proof]).info.runtimes == (proof.runtime,)

    other = packages["float32"]
    changed = write_package(tmp_path / "changed", other.info, {**contents, "golden.npz": _wrong(package)})
    with pytest.raises(EdgeSttError, match="gives something else on ai-edge-litert"):
        prove(changed, sys.executable)
    with pytest.raises(EdgeSttError, match="cannot run /no/python"):
        prove(package, "/no/python")


def test_a_runtime_that_streams_something_else_proves_nothing(
    packages: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convert import prove as module

    compare = module._compare
    monkeypatch.setattr(module, "_compare", lambda *settings: replace(compare(*settings), stream_agreement=0.8))
    with pytest.raises(EdgeSttError, match=r"streams something else on ai-edge-litert .* 80\.0 % of frames agree"):
        module.prove(packages["dynamic"], sys.executable)


def test_a_layer_to_keep_that_is_not_there_is_a_wrong_call(run: Path, tmp_path: Path) -> None:
    from convert.cli import app

    done = CliRunner().invoke(app, [str(run), "-o", str(tmp_path / "x"), "--keep-float", "nosuch"])
    assert isinstance(done.exception, UsageError)
    assert "there is no layer nosuch; there are" in str(done.exception)
    assert not (tmp_path / "x").exists()


def test_the_head_that_writes() -> None:
    from convert.build import written_by

    letters, sounds = UnitSet("a", "characters", ("-", "|", "a")), UnitSet("b", "phonemes", ("-", "|", "AA"))
    assert written_by({"sounds": sounds, "letters": letters}) == "letters"
    assert written_by({"sounds": sounds}) == "sounds"


def _wrong(package: ModelPackage) -> bytes:
    import io

    buffer = io.BytesIO()
    golden = package.golden()
    arrays: dict[str, Any] = {k: v if k == "log_mel" else np.roll(v, 1, axis=2) for k, v in golden.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.slow
def test_the_command(run: Path, manifest: Path, tmp_path: Path) -> None:
    """One mode as a person would, calibration, gate and child process included; then the package works."""
    command = [sys.executable, "-m", "edge_stt.cli", "convert", str(run), "-o", str(tmp_path / "small.zip")]
    command += ["--quantize", "int8", "--data", str(manifest), "--clips", "2", "--dev", str(manifest), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(done.stdout)["results"]
    assert result["written"]
    assert result["parity"]["clips"] == 3
    package = ModelPackage.load(tmp_path / "small.zip")
    stored = json.loads(package.read("parity.json"))
    assert stored["heads"] == result["parity"]["heads"]
    assert stored["calibration_clips"] == 2
    assert "## Parity with the float model" in package.read("MODEL_CARD.md").decode()
    assert not stored["forced"]


@pytest.mark.slow
def test_deep_speech_2(tmp_path: Path) -> None:
    """Its loops convert in every mode that devices run, int8 by TensorFlow's own quantizer."""
    from convert.build import exported, golden_input, to_tflite
    from convert.graph import load_run
    from convert.operators import check_operators

    model = load_run(small_run(tmp_path / "run", **DS2))
    log_mel = golden_input(model)
    said = {head: x.numpy() for head, x in model.offline(log_mel[None], training=False).items()}
    least = {"float32": 1.0, "float16": 0.98, "dynamic": 0.95, "int8": 0.85}  # of random weights: nothing is clear
    sizes = {}
    with exported(model) as saved:
        for mode, agreement in least.items():
            content = to_tflite(model, mode, [log_mel, 0.7 * log_mel, 1.3 * log_mel], saved_model=saved)
            check_operators(content)
            sizes[mode] = len(content)
            outputs = run_offline(content, log_mel)
            for head, expected in said.items():
                assert outputs[head].shape == expected.shape
                assert (outputs[head].argmax(-1) == expected.argmax(-1)).mean() >= agreement, (mode, head)
    assert sizes["int8"] < 0.7 * sizes["float32"]


def run_offline(content: bytes, log_mel: np.ndarray) -> dict[str, np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    (details,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(details["index"], [1, *log_mel.shape])
    return interpreter.get_signature_runner("offline")(log_mel=log_mel[None])


def test_a_converter_that_dies_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert import build
    from convert.graph import load_run

    model = load_run(small_run(tmp_path / "run", **CONV))
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o755)
    before = sorted(tmp_path.iterdir())
    with build.exported(model) as saved:
        monkeypatch.setattr(build.sys, "executable", str(dying))
        with pytest.raises(build.ConversionError, match=r"int8: TensorFlow's converter crashed \(SIGSEGV\).*nothing"):
            build.to_tflite(model, "int8", [build.golden_input(model)], saved_model=saved)
    assert sorted(tmp_path.iterdir()) == before


def test_bad_input_is_one_line(run: Path, manifest: Path, tmp_path: Path) -> None:
    from convert.cli import app

    (tmp_path / "there").mkdir()
    (tmp_path / "empty.jsonl").write_text('{"audio_filepath": "none.wav", "text": "hello", "duration": 1.0}\n')
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    for name in ("config.json", "model.json"):
        (truncated / name).write_bytes((run / name).read_bytes())
    (truncated / "best.npz").write_bytes((run / "best.npz").read_bytes()[:2_000])
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.json"):
        (other / name).write_bytes((run / name).read_bytes())
    (other / "config.json").write_text((run / "config.json").read_text().replace('"blocks": 1', '"blocks": 2'))
    (other / "best.npz").write_bytes((run / "best.npz").read_bytes())
    out = ["-o", str(tmp_path / "new")]
    cases: list[tuple[list[str], str]] = [
        ([str(tmp_path / "nothing"), *out], "is not a training run"),
        ([str(truncated), *out], "is not a readable checkpoint"),
        ([str(other), *out], "is of another architecture"),
        ([str(run), "-o", str(tmp_path / "there")], "exists; choose another name"),
        ([str(run), *out, "--quantize", "int4"], "unknown quantization 'int4'"),
        ([str(run), *out, "--quantize", "all"], "int8 needs representative clips"),
        ([str(run), *out, "--quantize", "int8", "--data", str(tmp_path / "empty.jsonl")], "no usable clip"),
        ([str(run), *out, "--dev", str(tmp_path / "empty.jsonl")], "no usable clip"),
        ([str(run), *out, "--dev", str(tmp_path / "none.jsonl")], "there is no such file"),
        ([str(run), *out, "--quantize", "float32", "--keep-float", "stem_1"], "no layers that are not float"),
        ([str(run), *out, "--notes", str(tmp_path / "none.md")], "cannot read"),
    ]
    for arguments, message in cases:
        error = CliRunner().invoke(app, arguments).exception
        assert isinstance(error, EdgeSttError), (arguments, error)
        assert message in str(error)
        assert "\n" not in str(error)
    assert not (tmp_path / "new").exists()


def test_the_decoding_of_other_units_is_refused(run: Path, tmp_path: Path) -> None:
    from convert.cli import app

    other = tmp_path / "other"
    shutil.copytree(run, other)
    described = json.loads((other / "model.json").read_text())
    described["heads"]["phonemes"]["name"] = "some-phonemes"
    (other / "model.json").write_text(json.dumps(described))
    out = tmp_path / "new"
    error = CliRunner().invoke(app, [str(other), "-o", str(out), "--decoding", str(DEFAULT_MODEL)]).exception
    assert isinstance(error, EdgeSttError)
    assert "is decoded from phonemes that this model does not have" in str(error)
    assert not out.exists()


def test_without_tensorflow_there_is_one_line() -> None:
    code = "import sys; sys.modules['tensorflow'] = None; sys.argv[1:] = ['convert', 'run', 'x', '-o', 'y']\n"
    code += "from edge_stt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "edge-stt: `edge-stt convert` needs tensorflow: pip install 'edge-stt[train]'\n"


@pytest.mark.parametrize("strides", [[2, 2, 2], [3]])
def test_other_strides_and_a_branch_convert_and_stream(strides: list[int], manifest: Path, tmp_path: Path) -> None:
    """Clips are no multiples of these strides, and chunks of the stream no 16 frames."""
    from convert.build import BuildConfig, Product, exported, make_trial
    from convert.calibration import calibration_clips
    from convert.child import convert
    from convert.graph import load_run
    from convert.parity import GateConfig, ParityGate, dev_clips

    model = load_run(
        small_run(tmp_path / "run", **{**CONV, "blocks": 2, "strides": strides, "branches": {"phonemes": 1}})
    )
    calibration, packages = tmp_path / "calibration.npz", {}
    np.savez(calibration, *calibration_clips(manifest, 3, model))
    with exported(model) as saved:
        for mode in ("float32", "int8"):
            product = Product(mode, tmp_path / mode, content=convert(saved, mode, calibration))
            packages[mode] = make_trial(tmp_path / mode, product, model, BuildConfig("small"), None)
    gate = ParityGate(model, dev_clips(manifest, 3, model), GateConfig(timed_clips=1, repeats=1, threads=(1,)))
    found = {parity.mode: parity for parity in gate.measure(packages)}
    assert found["float32"].agreement == 1.0
    assert found["int8"].agreement >= 0.85
    for parity in found.values():
        assert all(head.agreement == 1.0 and head.max_difference < 1e-3 for head in parity.stream.values()), parity.mode
