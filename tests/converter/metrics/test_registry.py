"""Metrics by name, and metrics of a user's file."""

from pathlib import Path

import numpy as np
import pytest

from converter.metrics.metric import Metric
from converter.metrics.registry import find_metric
from passes.errors import ConvertError, UsageError

OUTPUTS = {"y": np.array([[1.0], [3.0]])}


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


def value(metric: object, labels: dict[str, object] | None = None) -> float:
    one = find_metric(metric)()
    one.update(OUTPUTS, labels or {})
    return one.value()


def test_a_function_gives_one_number_for_each_sample_or_batch(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "def each(outputs, labels): return outputs['y'][:, 0]\n"
        "def batch(outputs, labels): return float(labels['t'])\n"
        "batch.higher_is_better = False\nbatch.unit = 'mm'\n",
    )
    assert value(f"{file}:each") == 2.0
    assert value(f"{file}:batch", {"t": 7}) == 7.0
    metric = find_metric(f"{file}:batch")()
    assert (metric.name, metric.unit, metric.higher_is_better) == ("batch", "mm", False)


def test_a_class_with_arguments(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "from converter.metrics.metric import Metric\n"
        "class Largest(Metric):\n"
        "    name = 'largest'\n"
        "    def __init__(self, scale=1): self.scale, self.best = scale, 0.0\n"
        "    def update(self, outputs, labels): self.best = max(self.best, float(outputs['y'].max()))\n"
        "    def value(self): return self.scale * self.best\n",
    )
    assert value(f"{file}:Largest") == 3.0
    assert value(f"{file}:Largest(scale=2)") == 6.0
    with pytest.raises(UsageError, match="unexpected keyword argument 'size'"):
        find_metric(f"{file}:Largest(size=2)")


def test_a_class_or_function_in_memory() -> None:
    class Half(Metric):
        name = "half"

        def update(self, outputs: object, labels: object) -> None: ...

        def value(self) -> float:
            return 0.5

    assert value(Half) == 0.5
    assert value(lambda outputs, _: outputs["y"].sum()) == 4.0


def test_an_error_of_the_users_code_names_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "def bad(outputs, labels):\n    return outputs['logits']\n")
    with pytest.raises(ConvertError, match=r"bad raised KeyError: 'logits' \(mine.py, line 2\)"):
        value(f"{file}:bad")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("accuracy", "no metric is named 'accuracy'; there are: top1, top5"),
        ("top1(", "cannot be read; write a name such as top1"),
        ("psnr(255)", "cannot be read"),
        ("psnr(size=3)", "unexpected keyword argument 'size'"),
        (7, "metric int is int; give a name"),
        (dict, "gives dict; derive a class from"),
    ],
)
def test_what_is_no_metric_is_refused(metric: object, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        find_metric(metric)


def test_a_function_must_return_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, "def text(outputs, labels): return 'good'\n")
    with pytest.raises(UsageError, match="must return a number, or one for each sample"):
        value(f"{file}:text")
