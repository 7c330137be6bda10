"""A file far from float is impossible without a warning: every graph of the zoo, and the cases beside the checkout."""

import json
import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter.cli.main import cli
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.runtime.choices import same_choice
from converter.runtime.few_samples import Feeds, real_feeds
from converter.runtime.output_errors import output_errors
from converter.runtime.runner import Runner
from models.zoo import ZOO, feeds_of
from tests.support.command_line import ROOT
from tests.support.command_line import run as command

FLOOR = 15.0
UNSEEN = 3.0  # dB that samples which did not calibrate may have less than those that did
WARNING = "against float on samples that"
FAST = frozenset({"conv depthwise", "gemm", "silu", "softmax", "attention", "detector head", "detector SSD"})
GRAPHS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name)
    for name in ZOO
    if not name.startswith("opset")  # one network at all operator sets
]
CASES = ROOT.parent / "shared" / "cases"


def least(model: Path | onnx.ModelProto, reference: Path | onnx.ModelProto, feeds: list[Feeds]) -> float:
    """Return the SQNR of the worst output on the same choice."""
    same = same_choice(onnx.load(model) if isinstance(model, Path) else model, reference, feeds)
    if same is not None:
        model, reference, feeds = same.model, same.reference, same.feeds
    before, after = Runner(reference, "float"), Runner(model, "file")
    one, other = ([each.execute(each.inputs(feed)) for feed in feeds] for each in (before, after))
    return min(output_errors(one, other, before.outputs).values(), default=np.inf)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("bits", [8, 2])
def test_a_graph_of_the_zoo_is_near_to_float_or_warns(name: str, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    """With 2 bits most graphs are below the floor."""
    model = ZOO[name]()
    recipe = "int8" if bits == 8 else "int4"
    with caplog.at_level(logging.WARNING):
        result = converter.convert(model, feeds_of(model, 64), recipe=recipe, bits={"*": bits} if bits == 2 else None)
    rows = feeds_of(model, 8, seed=2)
    unseen = [{key: values[row : row + 1] for key, values in rows.items()} for row in range(8)]
    error = least(result.model, model, unseen)
    warned = WARNING in caplog.text
    assert error > FLOOR - UNSEEN or warned, error
    assert result.fidelity is not None
    assert warned == bool(result.fidelity.warning)
    if bits == 8:
        assert not warned or error < 20, "8 bits leave 20 dB and more, but for boxes of noise"


def test_some_graphs_are_below_the_floor(caplog: pytest.LogCaptureFixture) -> None:
    """Else the test above would say nothing."""
    model = ZOO["conv"]()
    with caplog.at_level(logging.WARNING):
        converter.convert(model, feeds_of(model, 16), recipe="int8", bits={"*": 2})
    assert WARNING in caplog.text


@pytest.mark.parametrize("rows", [15, 16, 32, 64])
def test_rows_that_did_not_calibrate_show_what_was_learned_by_heart(
    rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At 2 bits, GPTQ fits the rows that it sees: a gemm has 25 dB on 16 of them, and 9 dB on others."""
    model = ZOO["gemm"]()
    with caplog.at_level(logging.WARNING):
        result = converter.convert(model, feeds_of(model, rows), recipe="int4", bits={"*": 2})
    assert result.calibration is not None
    assert result.fidelity is not None
    judges = "calibration" if rows < 16 else "ranges" if rows < 64 else "held out"
    assert result.fidelity.judges == judges
    assert result.fidelity.samples == {15: 8, 16: 2, 32: 4, 64: 4}[rows]
    assert result.calibration["images"] == (60 if rows == 64 else rows)
    words = {"ranges": "samples that no weight was fitted to", "held out": "samples that did not calibrate"}
    if rows < 16:
        assert "only 15 samples calibrate, so accuracy may suffer" in caplog.text
    elif rows < 64:
        assert f"dB against float on {words[judges]}; most of it comes from the weight of" in caplog.text
    else:
        assert words[judges] in result.fidelity.describe()


def test_the_warning_names_the_output_and_a_way_out_that_works(tmp_path: Path) -> None:
    """The warning names the layer at fault, the command named finds it, and the option named mends the file."""
    model = ZOO["several outputs"]()
    onnx.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "rows.npz", x=feeds_of(model, 32)["x"])
    data = ("--calibration", str(tmp_path / "rows.npz"))
    files = str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx")
    layer = next(node.name for node in model.graph.node if node.op_type == "Conv" and node.output[0] != "conv0")
    coarse = ("--bits", f"{layer}=2")
    warned = command("convert", files[0], "-o", files[1], *data, *coarse)
    assert warned.exit_code == 0, warned.output
    said = " ".join(warned.output.split())
    assert re.search(rf"output '{layer}' has only [\d.-]+ dB {WARNING}", said)
    assert f"most of it comes from the weight of {layer}" in said
    assert "`sensitivity` lists" in said
    assert "sensitivity" in cli.commands
    found = command("sensitivity", files[0], "--data", str(tmp_path / "rows.npz"), *coarse, "--json", "--quiet")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["sources"][0]["names"] == [layer]
    options = re.findall(r"(--[a-z-]+) (\d+) leaves what costs most in float", said)
    assert options == [("--min-sqnr", "20")]
    mended = command("convert", files[0], "-o", files[1], *data, *coarse, *options[0])
    assert mended.exit_code == 0, mended.output
    assert WARNING not in " ".join(mended.output.split())


RECORDER = """#!{python}
import json, pathlib, shutil, subprocess, sys
given = sys.argv[1:]
done = subprocess.run([{python!r}, "-m", "converter", *given], capture_output=True, text=True)
if given[0] == "convert" and "--calibration" in given and done.returncode == 0:
    folder = pathlib.Path({folder!r})
    folder = folder / str(len(list(folder.iterdir())))
    folder.mkdir()
    shutil.copy(given[1], folder / "float.onnx")
    shutil.copy(given[given.index("-o") + 1], folder / "written.onnx")
    data = given[given.index("--calibration") + 1]
    data = shutil.copy(data, folder) if data.endswith(".npz") else data
    folder.joinpath("call.json").write_text(json.dumps([str(data), done.stdout + done.stderr]))
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""
"""Stands for the command, and keeps the files of every conversion, as a case writes the next ones over them."""

LONG = frozenset({"02-gemm-relu-affine.py", "08-memory-of-large-activations.py"})  # minutes each


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted({path.name for path in CASES.glob("[0-9]*.py")} - LONG) or ["none"])
def test_a_case_is_near_to_float_or_warns(case: str, tmp_path: Path) -> None:
    if not (CASES / case).is_file():
        pytest.skip("needs ../shared/cases")
    recorder, kept = tmp_path / "convert-onnx", tmp_path / "kept"
    kept.mkdir()
    recorder.write_text(RECORDER.format(python=sys.executable, folder=str(kept)), encoding="utf-8")
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    environment = {"CONVERT_ONNX": str(recorder), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-B", str(CASES / case)],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=280,
    )
    folders = sorted(kept.iterdir())
    if not folders:
        pytest.skip("converts nothing with data")
    for folder in folders:
        data, said = json.loads((folder / "call.json").read_text(encoding="utf-8"))
        reference, written = folder / "float.onnx", folder / "written.onnx"
        error = least(written, reference, real_feeds(load_data(data, input_specs(onnx.load(reference))), 8))
        assert error > FLOOR or WARNING in " ".join(said.split()), (folder, error)
