"""Transformers with trained weights: sentences, files of both tools, the table, and what the commands refuse."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import road_sign_vit
from benchmarks.large_layers import chain
from benchmarks.shared_data import MissingData
from benchmarks.transformers import __main__ as bench
from benchmarks.transformers import road_signs
from benchmarks.transformers.methods import METHODS
from benchmarks.transformers.rows import Row, Task, measured
from benchmarks.transformers.sentences import sentences, sentences_of
from converter.runtime.session import no_progress


def task() -> Task:
    draw = np.random.default_rng(0)
    calibration, evaluation = ({"input": draw.standard_normal((count, 32), dtype=np.float32)} for count in (24, 60))
    return Task("minilm", chain([32, 64, 16]), calibration, evaluation, "cosine", bench.cosine)


def test_sentences_of_docstrings() -> None:
    source = '''"""A module that has a sentence of eight words. Too short. And one without a period"""
def f():
    """Return what
    the caller of this function gave to it. See [here](x) for all the many other details.
    """
    text = "Not a docstring, so it is not a sentence here."
'''
    assert list(sentences_of(source)) == [
        "A module that has a sentence of eight words.",
        "Return what the caller of this function gave to it.",
    ]
    assert list(sentences_of("def (")) == []


def test_sentences_differ_and_repeat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = " ".join(f"This is sentence number {number} of the library." for number in range(50))
    (tmp_path / "module.py").write_text(f'"""{text}"""')
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    found = sentences(40, seed=1)
    assert found == sentences(40, seed=1) != sentences(40, seed=2)
    assert len(set(found)) == 40
    with pytest.raises(MissingData, match="has 50 sentences, not 51"):
        sentences(51)


@pytest.mark.slow
def test_rows_of_both_tools() -> None:
    names = ["W8A8, int8", "W4A8, round to nearest, a scale a channel", "W8, dynamic"]
    rows = measured(task(), names, True, no_progress, timed=False)
    found = {row.file: row for row in rows}
    assert next(iter(found)) == "float"
    assert list(found)[-3:] == names
    assert found["float"].score == pytest.approx(1)
    assert np.isinf(found["float"].sqnr_db)
    assert 0.99 < found["W8A8, int8"].score < 1
    assert found["W4A8, round to nearest, a scale a channel"].score < found["W8A8, int8"].score
    assert found["quantize_dynamic"].sqnr_db > 20
    assert found["MatMulNBitsQuantizer"].bytes < found["float"].bytes / 2


def test_missed_bars() -> None:
    def row(file: str, score: float) -> Row:
        return Row(file, score, 20.0, 1, (1.0, 1.0), 0.0)

    rows = [row("float", 1.0), row("W8A8, int8", 0.98), row("W8A8, other", 0.995), row("W4A32, x", 0.97)]
    assert bench.missed("minilm", rows) == ["minilm, W4A32: 0.9700 is below 0.98"]
    assert bench.missed("vit", [row("float", 97.0), row("W4A8, int4", 96.8), row("W4A8, x", 90.0)]) == []
    assert bench.missed("vit", [row("float", 97.0), row("W4A8, int4", 96.6)]) == [
        "vit, W4A8: 96.60 % is more than 0.3 below 97.00 %"
    ]


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "TASKS", {"minilm": task})
    written = tmp_path / "rows.json"
    assert bench.main(["--methods", "W8, dynamic", "--no-peers", "--json", str(written)]) == 0
    assert "W8, dynamic" in capsys.readouterr().out
    (rows,) = json.loads(written.read_text()).values()
    assert [row["file"] for row in rows] == ["float", "W8, dynamic"]
    assert all(speed > 0 for speed in rows[1]["faster"])
    with pytest.raises(SystemExit):
        bench.main(["--methods", "W9"])
    assert f"no row begins with 'W9'; there are: {', '.join(METHODS)}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["resnet"])
    assert "no task is named 'resnet'" in capsys.readouterr().err


def test_an_untrained_network_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(road_signs, "ROOT", tmp_path)
    assert bench.main(["vit"]) == 1
    assert "run `python -m benchmarks.road_sign_vit`" in capsys.readouterr().err


def test_rates_rise_stay_and_fall() -> None:
    schedule = road_sign_vit.Schedule(epochs=10, rate=1.0, warmup=2, cooldown=4)
    assert [schedule.rate_at(epoch) for epoch in (0, 1, 2, 6, 8, 10)] == [0, 0.5, 1, 1, 0.5, 0]


def test_augmented_images_differ_and_repeat() -> None:
    batch = torch.rand(4, 3, 48, 48)
    one, same, other = (road_sign_vit.augmented(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == batch.shape
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_a_stopped_training_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(road_sign_vit, "_pretrained", lambda: road_sign_vit.Stages().state_dict())
    pixels, labels = torch.rand(4, 3, 48, 48), torch.arange(4)

    def trained(name: str) -> torch.Tensor:
        schedule = road_sign_vit.Schedule(epochs=2, batch=2, warmup=1, cooldown=1)
        network = road_sign_vit.train(schedule, pixels, labels, tmp_path / name)
        return torch.cat([each.detach().flatten() for each in network.parameters()])

    def stop(path: Path, content: object) -> None:
        save(path, content)
        raise KeyboardInterrupt

    whole, save = trained("whole"), road_sign_vit._save
    with monkeypatch.context() as patch:
        patch.setattr(road_sign_vit, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            trained("stopped")
    assert torch.equal(trained("stopped"), whole)
