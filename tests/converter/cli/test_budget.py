"""`convert` with a budget: options, exit codes, what is written, and what a killed run leaves."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter.cache.folder import Arrays, Cache
from passes.errors import BudgetError, OutputError, QuantizationError
from tests.support.command_line import CONVERT, names, run
from tests.support.models import images as photographs
from tests.support.models import small_cnn
from tests.support.networks import images, wide

BUDGET = ("convert", "wide.onnx", "-o", "out.onnx", "--calibration", "wide.npz", "--max-drop", "100", "--limit", "24")


@pytest.fixture
def wider(folder: Path) -> Path:
    """The folder with a network that is worth more bits in one layer than in another."""
    onnx.save(wide(), "wide.onnx")
    np.savez("wide.npz", x=images(32, 3, 12, 12))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("wider")
def test_a_drop_and_a_report() -> None:
    result = run(*BUDGET, "--report", "r.json")
    assert result.exit_code == 0, result.output
    assert "Search within a drop of at most 100 points" in result.output
    assert "mixed" in result.output
    assert "judged on 8 held-out samples; drop of" in result.output
    (kept,) = [line for line in result.output.splitlines() if line.rstrip().endswith("kept")]
    search = json.loads(Path("r.json").read_text())["search"]
    assert [attempt["name"] for attempt in search["attempts"]][:2] == ["int8", "int4"]
    assert all(attempt["holds"] for attempt in search["attempts"])
    winner = search["attempts"][search["kept"]]
    assert winner["name"] in kept
    assert min(attempt["bytes"] for attempt in search["attempts"]) == winner["bytes"] == Path("out.onnx").stat().st_size
    assert {effect["name"] for effect in search["effects"]} <= set(search["attempts"][0]["layer_bits"])


def test_no_file_within_the_budget(folder: Path) -> None:
    before = names(folder)
    result = run(*CONVERT, "--max-bytes", "100", "--limit", "24")
    assert result.exit_code == 3
    assert "Error: no file is within at most 100 bytes, and none was written; the nearest of" in result.output
    assert "Search within at most 100 bytes" in result.output  # the ladder is shown all the same
    assert names(folder) == before


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-drop", "-1"), "--max-drop -1 is not within 0 to 100 points"),
        (("--recipe", "auto"), "recipe 'auto' needs a budget; give --max-drop, --max-bytes or --max-latency"),
        (
            ("--max-drop", "5", "--measure-speed"),
            "--measure-speed has no effect with a budget: a search times layers in",
        ),
        (
            ("--max-drop", "5", "--exclude", "fc"),
            "--exclude has no effect with a budget: a search quantizes every layer",
        ),
        (
            ("--max-drop", "5", "--bits", "fc=8"),
            "--bits has no effect with a budget: a search chooses the bits of every",
        ),
        (
            ("--prune-channels", "auto"),
            "--prune-channels auto lets a budget choose the share; give --max-drop, or a share such as 0.3",
        ),
        (
            ("--max-drop", "5", "--prune-channels", "0.3"),
            "--prune-channels 0.3 has no effect with a budget, which chooses the share; use --prune-channels auto",
        ),
        (("--max-latency", "5", "--target", "qnn"), "--max-latency is measured on this machine's CPU"),
    ],
)
def test_usage(options: tuple[str, ...], message: str) -> None:
    result = run(*CONVERT, *options)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("limit", ["--max-drop", "--max-bytes"])
@pytest.mark.parametrize("says", [True, False], ids=["said", "unsaid"])
def test_labels_that_the_model_has_no_class_for(folder: Path, limit: str, says: bool) -> None:
    if not says:
        model = small_cnn()
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "c"
        onnx.save(model, "m.onnx")
    np.savez("calibration.npz", x=photographs(40), y=np.full(40, 9))
    before = names(folder)
    result = run(*CONVERT, limit, "5")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"Error: calibration\.npz(, held-out samples)?: label 9 of sample \d+ is out of range: the (float )?model has "
        r"5 classes \(0\.\.4\); use the labels that the model was trained on\n",
        result.stderr,
    )
    assert names(folder) == before


@pytest.mark.usefixtures("folder")
def test_a_budget_without_images_names_the_recipe_that_was_asked_for() -> None:
    for recipe, named in (((), "auto"), (("--recipe", "auto"), "auto"), (("--recipe", "int8"), "int8")):
        result = run("convert", "m.onnx", "-o", "out.onnx", "--max-drop", "5", *recipe)
        needs = (
            f"Error: recipe {named!r} needs calibration data; use --calibration with an .npz or a folder of images\n"
        )
        assert (result.exit_code, result.stderr) == (2, needs)


def test_recipes_name_auto() -> None:
    assert "auto" in run("recipes").output
    assert run("recipes", "--show", "auto").exit_code == 2


def killed(arguments: Sequence[str], place: Path) -> dict[Path, int]:
    """What a search that was killed once it had measured a layer left there, and when each file was written."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, "-m", "converter", *arguments], env=environment)
    effects: list[Path] = []
    end = time.monotonic() + 120
    while not effects and process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):  # a temporary file that got its name meanwhile
            effects = list(place.rglob("effect-*.npz"))
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    written = {path: path.stat().st_mtime_ns for path in place.rglob("*.npz")}
    for path in written:
        with path.open("rb") as stream, np.load(stream) as arrays:  # whole, every one
            assert arrays.files
    return written


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(wider: Path) -> None:
    arguments = [*BUDGET, "--cache", "kept"]
    written = killed(arguments, wider / "kept")
    assert not (wider / "out.onnx").exists()
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    onnx.checker.check_model("out.onnx")
    assert {path: path.stat().st_mtime_ns for path in written} == written  # read, not measured again


@pytest.mark.slow
def test_a_killed_run_without_a_cache_goes_on_beside_its_output(wider: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(wider)
    written = {path.name for path in killed(BUDGET, wider / "out.search")}
    assert names(wider) == before | {"out.search", ".out.onnx.lock"}
    refused = run(*BUDGET, "--bits", "large=8")
    assert refused.exit_code == 2
    assert names(wider) == before | {"out.search"}, "a slip on the way takes nothing"
    missed = run(*BUDGET, "--max-bytes", "100")
    assert missed.exit_code == 3
    assert names(wider) == before | {"out.search"}, "another budget that none keeps takes nothing"
    measured: list[str] = []
    store = Cache.store

    def seen(cache: Cache, name: str, arrays: Arrays) -> None:
        measured.append(f"{name}.npz")
        store(cache, name, arrays)

    monkeypatch.setattr(Cache, "store", seen)
    result = run(*BUDGET)
    assert result.exit_code == 0, result.output
    assert "out.search" in result.stderr
    assert {name for name in written if name.startswith("effect")}.isdisjoint(measured)
    assert measured, "it was not at its end"
    assert names(wider) == before | {"out.onnx"}


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (KeyboardInterrupt(), True),
        (OutputError("no space left"), True),
        (RuntimeError("a bug"), True),
        (QuantizationError("refused"), False),
        (BudgetError("none", None), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("measured", [True, False], ids=["measured", "nothing_measured"])
def test_what_was_measured_stays_where_it_is_of_use(
    error: BaseException, stays: bool, measured: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, cache: Path, **__: object) -> None:
        kept = Cache(cache, {})
        if measured:
            kept.store("attempt", {"bytes": np.array(3)})
        raise error

    monkeypatch.setattr("converter.convert_within", stopped)
    before = names(folder)
    assert run(*CONVERT, "--max-drop", "5").exit_code
    assert names(folder) == before | ({"out.search"} if stays and measured else set())


def test_what_is_not_its_own_is_left_in_the_folder(folder: Path) -> None:
    (folder / "out.search").mkdir()
    (folder / "out.search" / "notes.txt").touch()
    result = run(*CONVERT, "--max-bytes", "100000", "--limit", "24")
    assert result.exit_code == 0, result.output
    assert names(folder / "out.search") == {"notes.txt"}


@pytest.mark.usefixtures("folder")
def test_who_stops_a_search_is_told_how_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, cache: Path, **__: object) -> None:
        (cache / "key").mkdir(parents=True)
        (cache / "key" / "effect-0000.npz").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("converter.convert_within", stopped)
    result = run(*BUDGET, "--cache", "kept")
    told = "Interrupted; kept has the work so far; the same command continues from there\n"
    assert (result.exit_code, result.stderr) == (130, told)
