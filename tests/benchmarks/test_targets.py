"""Bookkeeping of the conformance suite and setup of runtimes. If these are installed, a page runs in a browser."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.targets import __main__ as command
from benchmarks.targets import conformance, measure, qnn_context
from benchmarks.targets.conformance import Outcome, attempt, report
from benchmarks.targets.measure import FOLDER
from benchmarks.targets.page import classify_in_browser
from converter import convert
from converter.cli.runtimes import RUNTIMES, set_up
from converter.data.preprocess import Preprocess
from converter.runtime.session import open_session
from converter.targets.catalog import TARGETS
from converter.verification.verify import Verification
from passes.errors import TargetError
from tests.support.models import SIDE, images, small_cnn


def test_a_pair_ends_in_run_rules_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERT_ONNX_TARGETS", str(tmp_path))
    kinds = {target: attempt("conv 1-D", "int8", target, tmp_path).kind for target in ("cpu", "web", "tensorrt")}
    assert kinds == {"cpu": "run", "web": "rules", "tensorrt": "refused"}
    refused = attempt("open height and width", "int8", "qnn", tmp_path)
    assert refused.detail.startswith("input 'x' has an open dimension 2 (h), target qnn needs fixed shapes")


def test_failed_and_crashed_are_different_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Verification("m", "cpu", "run", "onnxruntime 0", left=("a (B)",), failures=("it is wrong",))
    monkeypatch.setattr(conformance, "verify", lambda *_, **__: failed)
    monkeypatch.setattr(conformance, "_runs_float", lambda *_: True)
    assert attempt("conv", "int8", "cpu", tmp_path) == Outcome("conv", "int8", "cpu", "failed", "it is wrong", 1)

    def crash(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(conformance, "convert", crash)
    assert attempt("conv", "int8", "cpu", tmp_path) == Outcome("conv", "int8", "cpu", "crashed", "KeyError: 'x'")


def test_a_target_that_does_not_run_the_float_graph_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Path] = []

    def verify(path: Path, *_: object, **__: object) -> Verification:
        ran.append(path)
        return Verification("m", "cpu", "run", "onnxruntime 0", failures=("no such kernel",))

    monkeypatch.setattr(conformance, "verify", verify)
    assert attempt("conv", "int8", "cpu", tmp_path).kind == "unsupported"
    assert [path.name for path in ran] == ["quantized.onnx", "fixed.onnx"]
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(ran[1]).graph.node}


def test_the_report_has_totals_tables_and_reasons() -> None:
    text = report(
        [
            Outcome("conv", "int8", "cpu", "run", "onnxruntime 1", 2),
            Outcome("conv", "int8", "cuda", "rules", "no GPU"),
            Outcome("pad", "int8", "cpu", "refused", "too wide"),
            Outcome("pad", "int8", "cuda", "refused", "too wide"),
        ]
    )
    assert "4 pairs: 2 refused, 1 run, 1 rules." in text
    assert "| cpu | onnxruntime 1 |\n| cuda | no GPU |" in text
    assert "| graph | cpu | cuda |\n|---|---|---|\n| conv | run (2) | rules |\n| pad | refused 1 | refused 1 |" in text
    assert text.endswith("## Reasons\n\n1. too wide\n")


def test_the_suite_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def outcomes(graphs: list[str], *_: object) -> list[Outcome]:
        ran.extend(graphs)
        if graphs == ["pad"] and ran.count("pad") == 1:
            raise KeyboardInterrupt
        return [Outcome(graphs[0], "int8", "cpu", "run", "onnxruntime 1")]

    monkeypatch.setattr(conformance, "conformance", outcomes)
    monkeypatch.setattr(conformance, "ROOT", tmp_path)
    monkeypatch.setattr(conformance, "ZOO", dict.fromkeys(("conv", "pad", "mul")))
    out = tmp_path / "docs" / "conformance.md"
    with pytest.raises(KeyboardInterrupt):
        conformance.main("", out)
    assert not out.exists()
    (kept,) = (tmp_path / "build" / "conformance").iterdir()
    with kept.open("a") as file:
        file.write('[{"graph": "pa')  # what a kill leaves
    assert conformance.main("", out) == 0
    assert ran == ["conv", "pad", "pad", "mul"]
    assert "3 pairs: 3 run." in out.read_text()


def test_a_failure_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def outcomes(*_: object) -> list[Outcome]:
        return [Outcome("conv", "int8", "cpu", "failed", "it is wrong")]

    monkeypatch.setattr(conformance, "conformance", outcomes)
    assert command.main(["conformance", "--only", "conv"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("1/")
    assert " conv: 1 failed, 0 s\n    int8, cpu: failed: it is wrong\n2/" in shown
    assert "int8, cpu: failed: it is wrong" in shown


def test_a_verification_that_cannot_be_carried_out_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TargetError("build/targets/qnn cannot run target qnn")

    monkeypatch.setattr(conformance, "verify", broken)
    outcome = attempt("conv", "int8", "cpu", tmp_path)
    assert (outcome.kind, outcome.detail) == ("failed", "build/targets/qnn cannot run target qnn")


def test_an_unknown_graph_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["conformance", "--only", "zzz"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Error: no graph of the zoo is named 'zzz' or begins so; names begin with: conv, ")
    assert printed.count("\n") == 1


def test_a_missing_runtime_is_an_error_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    monkeypatch.setenv("CONVERT_ONNX_TARGETS", str(tmp_path))
    monkeypatch.setattr(measure, "NETWORKS", dict.fromkeys(measure.NETWORKS))  # no network is made
    assert command.main(["measure", "resnet18"]) == 1
    expected = "no runtime for cpu-oldest, openvino, qnn, web, node; convert-onnx targets setup makes them all"
    assert capsys.readouterr().err == f"Error: {expected}\n"


def test_an_environment_is_set_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda arguments, **_: ran.append(arguments))
    path = set_up("web", tmp_path)
    assert (path, len(ran)) == (tmp_path / "web", 1)
    assert ran[0][-1] == "onnxruntime-web@1.30.0"
    set_up("web", tmp_path)
    assert len(ran) == 1
    (path / ".installed").write_text("onnxruntime-web@1.0.0")
    set_up("web", tmp_path)
    assert len(ran) == 2


def test_unknown_names_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["measure", "tpu"])
    assert "nothing is named 'tpu'; there are: resnet18, " in capsys.readouterr().err


def test_every_environment_but_two_belongs_to_a_target() -> None:
    assert set(RUNTIMES) - set(TARGETS) == {"cpu-oldest", "node"}


@pytest.mark.slow
def test_a_page_classifies_an_image(tmp_path: Path) -> None:
    if not (FOLDER / "web" / ".installed").exists():
        pytest.skip("onnxruntime-web is not set up: convert-onnx targets setup web")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium on the path")
    preprocess = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    picture = images(1)[0]
    result = convert(small_cnn(), images(16), recipe="int4", target="web", preprocess=preprocess)
    onnx.save(result.model, tmp_path / "m.onnx")
    scores = classify_in_browser(tmp_path / "m.onnx", picture, preprocess, FOLDER / "web")
    assert preprocess.mean is not None
    rows = (picture / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    tensor = rows.astype(np.float32).transpose(2, 0, 1).reshape(1, 3, SIDE, SIDE)
    expected = open_session(result.model, threads=1).run(None, {"input": tensor})[0][0]
    assert (
        np.abs(scores - expected).max() <= 1e-4 * np.abs(expected).max()
    )  # one code of the input may be rounded differently


@pytest.mark.slow
def test_a_context_binary_gives_the_same_outputs(tmp_path: Path) -> None:
    found = qnn_context.measured(tmp_path)
    if isinstance(found, str):
        pytest.skip(found)
    assert found["difference"] == 0
    assert found["context"] > 0


def test_a_context_binary_needs_the_provider(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qnn_context, "find_environment", lambda _: "no qnn provider here")
    assert command.main(["qnn-context"]) == 1
    assert capsys.readouterr().err == "Error: no qnn provider here\n"
