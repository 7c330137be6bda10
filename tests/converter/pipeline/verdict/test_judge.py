"""The verdict: size, speed and advice, on the terminal and in reports."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.evaluation.evaluate import Evaluation, Measurement
from converter.pipeline.search_record import BudgetAttempt, Search
from converter.pipeline.trial_run import Fidelity
from converter.pipeline.verdict.answer import Verdict
from converter.pipeline.verdict.judge import Known, judge
from converter.recipes.builtin import RECIPES
from converter.runtime.latency import Latencies
from converter.targets.catalog import find_target
from tests.support.command_line import run
from tests.support.models import images, small_cnn

GOOD = Fidelity(8, "held out", {"y": 27.0})


def verdict(**changed: Any) -> Verdict:
    given: dict[str, Any] = {
        "metrics": None,
        "fidelity": GOOD,
        "latency": Latencies((2.0, 1.0), ((1.0, 1.0), (1.95, 2.05))),
        "before": 4000,
        "after": 1000,
        "known": Known(codes=100_000),
    }
    recipe, target = changed.pop("recipe", "int4"), changed.pop("target", "cpu")
    return judge(RECIPES[recipe], find_target(target), **(given | changed))


def agreeing(share: float) -> Evaluation:
    figures: dict[str, Any] = {"top1": None, "sqnr_db": 50.0, "latency_ms": None, "speedup": None, "metric": None}
    return Evaluation(
        {"images": 500}, tuple(Measurement("m", 1000, 500, agreement=each, **figures) for each in (None, share))
    )


def timed(speedup: float, low: float, high: float) -> Latencies:
    return Latencies((1.0, 1 / speedup), ((1.0, 1.0), (low, high)))


@pytest.mark.parametrize(
    ("after", "word", "why"),
    [
        (1000, "yes", "4.00x smaller than the model as given, 4.0 kB to 1.0 kB"),
        (3990, "about equal", "the model as given has 4.0 kB, the file 4.0 kB"),
        (
            5000,
            "no",
            "1.25x larger than the model as given, 4.0 kB to 5.0 kB; scales and nodes take more than the weights save",
        ),
    ],
)
def test_size(after: int, word: str, why: str) -> None:
    answer = verdict(after=after).smaller
    assert (answer.word, answer.why) == (word, why)


@pytest.mark.parametrize(
    ("latency", "word", "part"),
    [
        (timed(2.0, 1.95, 2.05), "yes", "2.00x faster (1.95 to 2.05) than the model as given, 1.00 ms to 0.50 ms"),
        (timed(0.5, 0.48, 0.52), "no", "2.00x slower (1.92 to 2.08) than the model as given, 1.00 ms to 2.00 ms"),
        (timed(1.02, 0.98, 1.06), "about equal", "1.02x faster (0.98 to 1.06)"),
        (timed(2.4, 0.5, 13.0), "not known", "other work ran: not reliable"),
        (timed(1.88, 1.3, 1.6), "not known", "1.88x faster (1.30 to 1.60, other work ran: not reliable)"),
        (None, "not known", "it was not timed"),
    ],
)
def test_speed(latency: Latencies | None, word: str, part: str) -> None:
    answer = verdict(latency=latency).faster
    assert answer.word == word
    assert part in answer.why


def test_speed_is_not_claimed_for_a_target_that_runs_elsewhere() -> None:
    assert verdict(target="qnn").faster.word == "not known"
    assert "qnn" in verdict(target="qnn").faster.why


def test_advice_follows_what_is_wrong() -> None:
    assert verdict().advice == ()
    assert verdict(recipe="int8").advice == ("`recipe='int4'` makes a smaller file that runs as fast",)
    slow = verdict(latency=timed(0.5, 0.48, 0.52)).advice
    assert slow == ("`measure_speed=True` leaves in float what this machine runs slower on integers",)
    assert verdict(after=5000).advice == ("keep the model as given unless an integer file is needed",)
    worse = verdict(recipe="int4-weight-only", after=5000, latency=timed(0.5, 0.48, 0.52)).advice
    assert worse == ("keep the model as given unless an integer file is needed",)
    assert verdict(recipe="keep", after=5000, latency=timed(0.5, 0.48, 0.52)).advice == ()
    bad = verdict(fidelity=Fidelity(8, "held out", {"y": 12.0})).advice
    assert any("min_sqnr" in each for each in bad)
    near = verdict(metrics=agreeing(0.92), fidelity=Fidelity(8, "held out", {"y": 52.4})).advice
    assert near[0].startswith("`min_sqnr=58` leaves in float")
    unsure = verdict(fidelity=Fidelity(8, "held out", {"y": 17.0})).advice
    assert "evaluation=" in unsure[0]
    equal = verdict(metrics=agreeing(0.92), fidelity=Fidelity(8, "held out", {"y": math.inf})).advice
    assert equal[0].startswith("`min_sqnr=20` leaves in float")


def test_advice_knows_what_was_done() -> None:
    assert verdict(recipe="int8", known=Known(codes=500)).advice == ()
    assert verdict(recipe="int8", target="generic").advice == ()
    slow = timed(0.5, 0.48, 0.52)
    assert verdict(latency=slow, known=Known(codes=100_000, measured_speed=True)).advice == ()
    attempt = BudgetAttempt("int8", {}, 8.0, 1000, 0.4, 0.4, 0.1, 0.4, 30.0, None, None, None, 1.0, "")
    search = Search("a drop of 0.5", {"max_drop": 0.5}, "top-1 accuracy", 256, (attempt,), 0)
    found = verdict(recipe="int8", known=Known(codes=100_000, search=search))
    assert (found.accurate.word, found.advice) == ("good", ())
    assert found.accurate.why == "top-1 accuracy falls by 0.40 points on 256 samples that did not calibrate"
    own = verdict(known=Known(search=dataclasses.replace(search, drop_of="map"))).accurate
    assert own.word == "good"
    assert own.why == "map falls by 0.40 on 256 samples that did not calibrate, which is within the budget"


def test_every_conversion_ends_with_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_cnn(), "m.onnx")
    np.savez("data.npz", x=images())
    reports = ("--report", "r.json", "--report", "r.html")
    done = run("convert", "m.onnx", "-o", "q.onnx", "--calibration", "data.npz", "--mean", "0", *reports)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    for question in ("Accurate enough? ", "Smaller? ", "Faster here? "):
        assert sum(line.startswith(question) for line in lines) == 1
    assert "it was not timed" not in done.stdout
    facts = json.loads(Path("r.json").read_text())
    assert facts["latency"]["ms"][0] > 0
    assert facts["verdict"]["smaller"]["word"] in {"yes", "no", "about equal"}
    page = Path("r.html").read_text()
    assert page.index('<section id="verdict"') < page.index('<section id="headline"')
    assert not any("=`" in each or "=True`" in each for each in facts["verdict"]["advice"]), "in words of the command"

    quick = run(
        "convert", "m.onnx", "-o", "q.onnx", "--calibration", "data.npz", "--mean", "0", "--no-timing", "--quiet"
    )
    assert "Faster here? not known: it was not timed" in quick.stdout
    assert "Next:" not in quick.stdout


def test_python_times_on_request() -> None:
    settings = converter.Settings(timing=True)
    timed_too = converter.convert(small_cnn(), images(), recipe="int8", settings=settings)
    assert timed_too.latency is not None
    assert len(timed_too.latency.ms) == 2
    assert "Faster here?" in timed_too.summary()
    plain = converter.convert(small_cnn(), images(), recipe="int8")
    assert plain.latency is None
    assert plain.model.SerializeToString() == timed_too.model.SerializeToString()
