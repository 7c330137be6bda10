"""Reports are written completely or not at all. A report that cannot be written is refused before any work."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from converter import convert
from converter.report.files import check_report, write_facts, write_report
from converter.report.page.render import render
from passes.errors import ConvertError, OutputError, UsageError
from tests.support.command_line import CONVERT, names, run
from tests.support.models import images, small_cnn


def test_json_report(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    write_facts(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == {"r.json"}


def test_lists_of_numbers_stand_on_one_line(tmp_path: Path) -> None:
    facts = {"a": [1, 2.5, None], "b": [[1, 2], [3, 4]], "c": ["[\n 1,\n 2\n]", "x"], "d": [], "e": [{"f": [True]}]}
    write_facts(tmp_path / "r.json", facts)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == facts
    assert '"a": [1, 2.5, null]' in text
    assert "[3, 4]\n" in text


@pytest.mark.parametrize("content", [{"a": object()}, {"a": float("nan")}, {"a": float("inf")}])
def test_a_failed_report_leaves_the_old_one(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises((TypeError, ValueError)):
        write_facts(path, content)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"r.json"}


@pytest.mark.parametrize(("name", "kind"), [("r.txt", UsageError), ("r", UsageError), ("missing/r.json", OutputError)])
def test_a_report_that_cannot_be_written(tmp_path: Path, name: str, kind: type[ConvertError]) -> None:
    with pytest.raises(kind, match="r"):
        write_facts(tmp_path / name, {})
    assert not list(tmp_path.iterdir())


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    original = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name == missing else original(name, package)

    monkeypatch.setattr("converter.report.page.render.find_spec", find)


@pytest.mark.parametrize(("module", "package"), [("vl_convert", "vl-convert-python"), ("jinja2", "jinja2")])
def test_a_page_without_its_packages_is_refused(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    without(monkeypatch, module)
    with pytest.raises(
        UsageError, match=rf"r\.html: an HTML report needs {package}; install convert-onnx\[report\], or"
    ):
        check_report(Path("r.html"))
    check_report(Path("r.json"))


@pytest.mark.usefixtures("unchanged")
def test_the_command_refuses_a_page_without_its_packages_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "vl_convert")
    result = run(*CONVERT, "--report", "r.html")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "vl-convert-python" in result.stderr


def test_the_report_of_a_call(tmp_path: Path) -> None:
    result = convert(small_cnn(), images(32), recipe="int8")
    write_report(result, tmp_path / "r.json", model="mine")
    facts = json.loads((tmp_path / "r.json").read_text())
    assert (facts["model"], facts["output"]) == ("mine", "output")
    assert facts["bytes"] == {"before": result.reference.ByteSize(), "after": result.model.ByteSize()}
    with pytest.raises(UsageError, match=r"r\.txt"):
        write_report(result, tmp_path / "r.txt")


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_both_reports_of_a_conversion() -> None:
    result = run(*CONVERT, "--evaluate", "unseen.npz", "--report", "r.json", "--report", "r.html")
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("r.json").read_text())
    assert facts["bytes"] == {"before": Path("m.onnx").stat().st_size, "after": Path("out.onnx").stat().st_size}
    assert (facts["model"], facts["output"]) == ("m.onnx", "out.onnx")
    assert Path("r.html").read_text(encoding="utf-8") == render(facts), "the page shows the facts of the JSON report"
