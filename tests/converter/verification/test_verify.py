"""verify: what runs, what is compared, and what fails. Small scripts stand for providers that are missing."""

import json
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter import convert
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.verification.verify import Verification, verify
from passes.errors import ModelError, TargetError
from tests.support.command_line import process, run
from tests.support.models import SIDE, small_cnn

X = np.random.default_rng(0).standard_normal((16, 3, SIDE, SIDE)).astype(np.float32)

# A provider. It runs the file on this interpreter's CPU, and then changes its answer as the test needs.
PROVIDER = """#!{python}
import json, runpy, sys
sys.argv = sys.argv[1:]
import importlib.util
spec = importlib.util.spec_from_file_location("session", sys.argv[0])
session = importlib.util.module_from_spec(spec)
spec.loader.exec_module(session)
job = json.load(open(sys.argv[1])) | {{"provider": "cpu"}}
found = session.run_job(job)
{change}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx, and the files that are written from it for targets."""
    folder = tmp_path_factory.mktemp("made")
    model = small_cnn(transpose=False)
    onnx.save(model, folder / "float.onnx")
    for target in ("cpu", "qnn", "tensorrt"):
        convert(model, X, target=target).save(folder / f"{target}.onnx")
    np.savez(folder / "x.npz", x=X)
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """A copy of these files that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "work"))


def provider(folder: Path, change: str = "") -> Path:
    path = folder / "python"
    path.write_text(PROVIDER.format(python=sys.executable, change=change))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def outputs_become(expression: str) -> str:
    """Change what the provider computed."""
    return (
        "import numpy as np\n"
        "out = dict(np.load(job['outputs']))\n"
        f"np.savez(job['outputs'], **{{name: {expression} for name, y in out.items()}})"
    )


def checked(files: Path, target: str, change: str = "", *, data: bool = True, **options: Any) -> Verification:
    path = files / f"{target}.onnx"
    rows = load_data(X, input_specs(onnx.load(path))) if data else None
    return verify(path, target, rows, runtime=provider(files, change), **options)


def test_the_cpu_itself(files: Path) -> None:
    actual = verify(files / "cpu.onnx", "cpu", reference=files / "float.onnx")
    assert actual.passed
    assert (actual.how, actual.left, actual.images, actual.agreement) == ("run", (), 8, 1.0)
    assert actual.runtime.startswith("onnxruntime ")
    assert actual.sqnr_db == np.inf
    assert actual.float_db == actual.cpu_float_db is not None
    assert actual.nodes is not None
    assert actual.nodes > 0
    assert json.loads(json.dumps(actual.to_json()))["sqnr_db"] is None


def test_a_fixed_batch_and_no_data(files: Path) -> None:
    actual = checked(files, "qnn", data=False)
    assert actual.passed
    assert actual.images == 8


def test_rules_are_checked_if_the_target_cannot_run(files: Path) -> None:
    actual = verify(files / "tensorrt.onnx", "tensorrt")
    assert (actual.how, actual.passed, actual.violations) == ("rules", True, ())
    assert actual.runtime == "needs an NVIDIA GPU: only the rules are checked"
    other = verify(files / "cpu.onnx", "tensorrt")
    assert not other.passed
    assert "signed: input_quantize: activations are uint8, not int8" in other.failures


def test_nodes_left_to_the_cpu_fail_where_all_must_be_taken(files: Path) -> None:
    left = "found['left'] = [{'name': 'fc', 'op': 'Gemm'}]"
    assert checked(files, "qnn", left).failures == ("fc (Gemm) runs on another provider",)
    assert checked(files, "cpu", left).passed
    assert checked(files, "cpu", left).left == ("fc (Gemm)",)


def test_a_provider_that_takes_no_node_fails(files: Path) -> None:
    """All outputs are correct then, because the CPU computed them."""
    none = "found['nodes'], found['left'] = 0, [{'name': 'fc', 'op': 'Gemm'}, {'name': 'add', 'op': 'Add'}]"
    for target in ("cpu", "qnn"):
        expected = ("the provider runs no node: all 2 run on another one",)
        assert checked(files, target, none).failures == expected


def test_other_classes_than_the_cpu_s_fail(files: Path) -> None:
    actual = checked(files, "qnn", outputs_become("-y"))
    assert actual.agreement == 0.0
    assert actual.failures[0] == "agreement with the CPU is 0.0 %, below 99 %"
    assert "dB against the CPU, below 10 dB; give `reference=`" in actual.failures[1]


def test_outputs_are_judged_by_their_distance_from_float(files: Path) -> None:
    """Noise of a twentieth is visible: the file's own noise is a hundredth."""
    noise = outputs_become("y * (1 + 0.05 * (-1) ** np.arange(y.size).reshape(y.shape)).astype(y.dtype)")
    reference = files / "float.onnx"
    actual = checked(files, "qnn", noise, reference=reference, min_agreement=0.0)
    assert actual.float_db is not None
    assert actual.failures == (
        f"{actual.float_db:.1f} dB against float, where the CPU has {actual.cpu_float_db:.1f} dB",
    )
    slight = outputs_become("y * (1 + 0.001 * (-1) ** np.arange(y.size).reshape(y.shape)).astype(y.dtype)")
    assert checked(files, "qnn", slight, reference=reference).passed


def embedding(scale: float = 1.0) -> onnx.ModelProto:
    """Two outputs: "output" has five numbers that are nearly equal, and "features" are a hundred times smaller."""
    model = small_cnn(transpose=False)
    weights = {each.name: each for each in model.graph.initializer}
    rows = onnx.numpy_helper.to_array(weights["fc.weight"])
    near = np.float32(scale) * (rows[:1] + np.float32(1e-3) * rows)
    weights["fc.weight"].CopyFrom(onnx.numpy_helper.from_array(near.astype(np.float32), "fc.weight"))
    weights["fc.bias"].CopyFrom(onnx.numpy_helper.from_array(np.zeros(len(rows), np.float32), "fc.bias"))
    hundredth = onnx.numpy_helper.from_array(np.array(0.01, np.float32), "hundredth")
    model.graph.initializer.append(hundredth)
    model.graph.node.append(onnx.helper.make_node("Mul", ["flat", "hundredth"], ["features"], "scale"))
    shape: list[str | int] = ["n", len(rows[0])]
    model.graph.output.append(onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, shape))
    return model


def test_the_highest_number_of_an_embedding_may_change(files: Path) -> None:
    """Its numbers are nearly equal, so rounding alone decides which one is highest."""
    onnx.save(embedding(), files / "reference.onnx")
    convert(embedding(), X, target="qnn").save(files / "qnn.onnx")
    noise = outputs_become("y + (0.003 * np.random.default_rng(0).standard_normal(y.shape)).astype(y.dtype) * y.std()")
    with_cpu = checked(files, "qnn", noise)
    assert with_cpu.agreement is not None
    assert with_cpu.agreement < 0.99
    assert with_cpu.failures == (f"agreement with the CPU is {100 * with_cpu.agreement:.1f} %, below 99 %",)
    reference = files / "reference.onnx"
    assert checked(files, "qnn", noise, reference=reference).passed
    strict = checked(files, "qnn", noise, reference=reference, min_agreement=0.99)
    assert strict.failures == with_cpu.failures


def test_every_output_is_judged(files: Path) -> None:
    """Noise in the second output only, where it is still more exact than the first: the worst SQNR does not show it."""
    onnx.save(embedding(scale=1.1), files / "reference.onnx")  # so the first output is at 20 dB
    convert(embedding(), X, target="qnn").save(files / "qnn.onnx")
    usual = checked(files, "qnn", reference=files / "reference.onnx")
    assert usual.passed
    assert set(usual.outputs) == {"output", "features"}
    assert usual.float_db == min(usual.outputs.values())
    least, most = sorted(usual.outputs, key=lambda name: usual.outputs[name])
    room = usual.outputs[most] - usual.outputs[least]
    assert (least, room > 10) == ("output", True), usual.outputs
    change = (
        "import numpy as np\n"
        "out = dict(np.load(job['outputs']))\n"
        f"y, draw = out['{most}'], np.random.default_rng(0)\n"
        f"y += (np.sqrt((y ** 2).mean()) * {10 ** (-(usual.outputs[least] + 2) / 20)} * draw.standard_normal(y.shape))"
        ".astype(y.dtype)\n"
        "np.savez(job['outputs'], **out)"
    )
    actual = checked(files, "qnn", change, reference=files / "reference.onnx", min_agreement=0.0)
    assert actual.failures == (
        f"{most}: {actual.outputs[most]:.1f} dB against float, where the CPU has {usual.outputs[most]:.1f} dB",
    )
    assert actual.to_json()["outputs"] == actual.outputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outputs_become("y * np.float32('nan')"), "output output holds NaN or Inf"),
        (outputs_become("y[:, :2]"), "output output has another shape than on the CPU"),
        ("found = {'error': 'Fail: no such kernel'}", "it does not run: Fail: no such kernel"),
        ("import os; os.abort()", "ended with -6 and said: nothing"),
        ("sys.exit('a library is missing')", "ended with 1 and said: a library is missing"),
        ("print('{'); sys.exit()", "ended with 0 and said: nothing"),
    ],
    ids=["nan", "shape", "error", "crash", "exit", "garbage"],
)
def test_every_error_of_the_provider_is_a_failure(files: Path, change: str, message: str) -> None:
    actual = checked(files, "qnn", change)
    assert not actual.passed
    assert message in actual.failures[0]


@pytest.mark.usefixtures("packed")
def test_a_newer_runtime_does_not_excuse_the_form(files: Path) -> None:
    convert(small_cnn(transpose=False), X, recipe="int4").save(files / "generic.onnx")
    actual = checked(files, "generic")
    assert actual.failures[0] == "narrowest: stem.weight_int4: int4, the smallest integers are int8"


def test_invalid_runtimes_are_refused(files: Path) -> None:
    with pytest.raises(TargetError, match="neither a Python interpreter nor a virtual environment"):
        verify(files / "cpu.onnx", "cpu", runtime=files)
    with pytest.raises(TargetError, match="has no node_modules/onnxruntime-web; run npm install there"):
        verify(files / "cpu.onnx", "web", runtime=files)
    with pytest.raises(TargetError, match="target cuda cannot be run here; leave out `runtime=`"):
        verify(files / "cpu.onnx", "cuda", runtime=files)
    other = small_cnn(transpose=False)
    other.graph.node[-1].output[0] = other.graph.output[0].name = "y"
    onnx.save(other, files / "other.onnx")
    with pytest.raises(ModelError, match="outputs are y, not output"):
        verify(files / "cpu.onnx", "cpu", reference=files / "other.onnx")


def test_a_missing_provider_is_reported_with_its_installation(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERT_ONNX_TARGETS", str(files))
    for target in ("openvino", "web"):
        actual = verify(files / "cpu.onnx", target)
        assert (actual.how, actual.passed) == ("rules", True)
        assert actual.runtime.endswith(f"convert-onnx targets setup {target} installs it")


def test_an_environment_is_found_by_the_target_s_name(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERT_ONNX_TARGETS", str(files / "environments"))
    (files / "environments" / "qnn" / "bin").mkdir(parents=True)
    provider(files / "environments" / "qnn" / "bin", "found['package'] = 'onnxruntime-qnn 0.0'")
    assert verify(files / "qnn.onnx", "qnn").runtime.endswith("onnxruntime-qnn 0.0")


def test_a_reference_that_cannot_be_read(files: Path) -> None:
    (files / "half.onnx").write_bytes((files / "float.onnx").read_bytes()[:1000])
    (files / "text.onnx").write_text("a note\n")
    for name, message in (
        (".", "is a folder, not an ONNX file; pass a file in it, such as cpu.onnx"),
        ("half.onnx", r"half.onnx is truncated or damaged .*; export or download it again"),
        ("text.onnx", "not an ONNX file but text, starting with 'a note'; give the exported .onnx file"),
        ("none.onnx", "none.onnx: no such file"),
    ):
        with pytest.raises(ModelError, match=message):
            verify(files / "cpu.onnx", "cpu", reference=files / name)


def test_open_sizes_need_data(files: Path) -> None:
    model = small_cnn(transpose=False)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    convert(model, X).save(files / "open.onnx")
    with pytest.raises(
        ModelError, match=r"takes 'input' float32 \[\?, 3, \?, 12\], whose sizes are not fixed; give `data=`"
    ):
        verify(files / "open.onnx", "cpu")


def test_the_command(files: Path) -> None:
    cpu, there = str(files / "cpu.onnx"), str(files / "x.npz")
    result = run("verify", cpu, "--target", "cpu", "--data", there, "--limit", "4")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"{cpu}: verified on cpu by running it"
    assert "samples run                   4" in result.stdout
    answer = json.loads(run("verify", cpu, "--target", "cpu", "--json").stdout)
    assert (answer["how"], answer["passed"], answer["images"]) == ("run", True, 8)


def test_the_command_fails_with_exit_code_3(files: Path) -> None:
    cpu = str(files / "cpu.onnx")
    result = process("verify", cpu, "--target", "tensorrt")
    assert result.returncode == 3
    message = "by the target's rules: signed: input_quantize: activations are uint8, not int8 (and"
    assert result.stderr.startswith(f"Error: {cpu} on tensorrt, {message}")
    assert result.stderr.endswith("more); convert the float model with --target tensorrt\n")
    violations = json.loads(run("verify", cpu, "--target", "tensorrt", "--json").stdout)["violations"]
    counted = re.findall(r"^ (\w+) +(\d+)  ", result.stdout, re.MULTILINE)
    assert dict(counted) == {fact: str(count) for fact, count in Counter(each["fact"] for each in violations).items()}
    assert len(violations) > len(counted)
    assert "https://docs.nvidia.com/deeplearning/tensorrt/" in result.stdout
    assert json.loads(run("verify", cpu, "--target", "tensorrt", "--json").stdout)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("verify", "cpu.onnx"), 2, "Missing option '--target'"),
        (("verify", "none.onnx", "--target", "cpu"), 1, "none.onnx: no such file"),
        (("verify", "cpu.onnx", "--target", "tpu"), 2, "no target is named 'tpu'; there are: cpu,"),
        (("verify", "cpu.onnx", "--target", "cpu", "--min-agreement", "99"), 2, "99 is not a fraction from 0 to 1"),
        (("targets", "tpu"), 2, "no target is named 'tpu'"),
        (
            ("verify", "cpu.onnx", "--target", "cpu", "--limit", "4"),
            2,
            "--limit would have no effect without --data; add --data",
        ),
        (
            ("verify", "cpu.onnx", "--target", "cpu", "--limit", "4", "--min-agreement", "0.9"),
            2,
            "--limit and --min-agreement would have no effect without --data; add --data, or leave it out",
        ),
    ],
)
def test_refusals(
    files: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(files)
    result = run(*arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tensorrt.onnx", "--target", "tensorrt", "--reference", "float.onnx"), "--reference had no effect: needs an"),
        (("cpu.onnx", "--target", "web", "--data", "x.npz"), "convert-onnx targets setup web installs it"),
    ],
)
def test_a_file_that_cannot_be_run_here_is_checked_by_the_rules(
    files: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("CONVERT_ONNX_TARGETS", str(files / "nothing"))
    np.savez("x.npz", x=np.zeros((2, 3, SIDE, SIDE), np.float32))
    result = run("verify", *arguments)
    assert result.exit_code == 0, result.output
    assert words in result.stdout
    assert "by the target's rules" in result.stdout


def test_runtimes_are_installed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def install(name: str) -> Path:
        if name == "qnn":
            raise subprocess.CalledProcessError(1, "pip")
        return tmp_path / name

    monkeypatch.setattr("converter.cli.runtimes.set_up", install)
    done = run("targets", "setup", "web", "openvino")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 2)
    failed = run("targets", "setup", "qnn", "web")
    assert "web: " in failed.stdout
    assert "Error: qnn cannot be installed: qnn: its installer ended with 1, see its output above" in failed.stderr
    unknown = run("targets", "setup", "tpu")
    assert unknown.exit_code == 2
    assert "there is no runtime to install for 'tpu'; there are: cpu-oldest, generic," in unknown.stderr
    assert run("targets", "cpu", "web").exit_code == 2


def test_targets_are_printed_with_their_sources() -> None:
    result = run("targets")
    assert max(map(len, result.stdout.splitlines())) <= 120
    names = ["cpu", "openvino", "qnn", "tensorrt", "cuda", "web", "mobile", "generic", "cpu-avx2", "vitisai", "xnnpack"]
    names += ["directml", "openvino-npu", "coreml", "acl"]
    assert [line.split()[0] for line in result.stdout.splitlines() if re.match(" [a-z]", line)][1:] == names
    facts = run("targets", "mobile").stdout
    assert "HasValidBinaryOpQuantizedInputTypes" in facts
    assert "static_shapes       yes" in facts
