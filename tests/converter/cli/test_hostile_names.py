"""Layers with hostile names, through every command that shows them, in the terminal and in HTML."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.command_line import run
from tests.support.graphs import array, build, node

NAMES = [
    "block[conv].weight",
    "[/]",
    "[bold red]x[/bold red]",
    ":smile:",
    "\x1b]8;;http://example.org\x07link\x1b]8;;\x07",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "a\nb",
    "tab\there",
    "__proto__",
    "constructor",
    "</script><script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "a" * 300,
    "%s %d {0}",
    "--help",
    "op:Conv",
    "re:.*",
    "a*",
    "'; drop table",
    "\\N{BULLET}",
    "層",
    "..",
    "a=8",
    '"',
    "e\u0301 and \u00e9",
    "a/b\\c",
    "x\x00y",
    "a,b",
    "from:a..to:b",
    "after:a",
    "!!",
]


CONVERT = ("convert", "model.onnx", "-o", "out.onnx", "--calibration", "data.npz")


def model(folder: Path, name: str) -> Path:
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name=name),
        node("Relu", ["a"], ["b"], name=f"{name} relu"),
        node("Conv", ["b", "w1"], ["c"], name=f"{name} 2"),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    path = folder / "model.onnx"
    onnx.save(build(nodes, {"w0": array(4, 3, 3, 3), "w1": array(5, 4, 3, 3)}, ["n", 3, 8, 8]), path)
    np.savez(folder / "data.npz", x=array(40, 3, 8, 8))
    return path


def visible(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


FAST = 6
PARAMETERS = [
    pytest.param(name, id=ascii(name)[:24], marks=() if index < FAST else pytest.mark.slow)
    for index, name in enumerate(NAMES)
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_name_is_data_in_every_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model(tmp_path, name)
    commands = [
        ["inspect", "model.onnx"],
        [
            "convert",
            "model.onnx",
            "-o",
            "out.onnx",
            "--calibration",
            "data.npz",
            "--report",
            "r.json",
            "--report",
            "r.html",
        ],
        ["inspect", "out.onnx"],
        ["compare", "model.onnx", "out.onnx", "--data", "data.npz"],
        ["evaluate", "model.onnx", "out.onnx", "--data", "data.npz"],
        ["verify", "out.onnx", "--target", "cpu"],
    ]
    printed = ""
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0, (command, result.output)
        assert visible(result.output), (command, ascii(result.output))
        printed += result.output
    whole = re.sub(r"\s+", "", printed)
    shown = name.encode("unicode_escape").decode() if not name.isprintable() else name
    if len(name) < 80:
        assert re.sub(r"\s+", "", shown) in whole
    layers = {layer["name"] for layer in json.loads((tmp_path / "r.json").read_text())["layers"]}
    assert layers == {name, f"{name} 2"}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
