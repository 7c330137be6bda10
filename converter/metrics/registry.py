"""Metrics by name: built in, of another package, or of the user's own file."""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.metrics.classes import F1, Top1, Top5
from converter.metrics.dense import AbsRel, MeanIou, Psnr, Ssim
from converter.metrics.detection import MeanAveragePrecision, Oks
from converter.metrics.metric import Labels, Metric, MetricFactory, Outputs, SampleMean
from converter.metrics.text import Cer, Wer
from converter.metrics.vectors import Cosine, Sqnr
from converter.model_io.entry_points import entry_point_names, load_entry_point
from converter.model_io.python_spec import load_name, parse_spec
from converter.model_io.user_code import user_code
from passes.errors import UsageError

__all__ = ["METRICS", "find_metric", "metric_names"]

GROUP = "convert_onnx.metrics"

METRICS: Mapping[str, type[Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (Top1, Top5, F1, MeanAveragePrecision, MeanIou, Psnr, Ssim, AbsRel, Oks, Cer, Wer, Cosine, Sqnr)
    }
)
"""Built-in metrics by name."""

_LIBRARIES = MappingProxyType(
    {"map": "pycocotools", "ssim": "skimage", "f1": "sklearn", "cer": "jiwer", "wer": "jiwer"}
)


def metric_names() -> list[str]:
    """Return the names of all metrics that can be requested by name."""
    return [*METRICS, *entry_point_names(GROUP, METRICS, UsageError)]


def find_metric(metric: Any) -> MetricFactory:
    """Return what makes a metric.

    Args:
        metric: One of these forms:

            - a name such as "map", with arguments if needed: "psnr(peak=255)", "map(decode='FILE.py:FUNCTION')";
            - "FILE.py:CALLABLE": a class derived from `Metric`, a function without parameters that returns a metric, or
              a function of ``(outputs, labels)`` that returns one number for a batch, or one for each sample. A number
              is a score: higher is better. A function whose attribute ``higher_is_better`` is False is a loss;
            - such a class or function itself.

    Raises:
        UsageError: There is no such metric, its arguments are wrong, or the package that it needs is not installed.
    """
    if isinstance(metric, str) and ".py:" in metric.partition("(")[0]:
        spec = parse_spec(metric, "FILE.py:CALLABLE or FILE.py:CALLABLE(name=value)")
        with load_name(spec.path, spec.name, UsageError) as value:
            return _of_object(value, str(spec), spec.arguments)
    if isinstance(metric, str):
        return _of_name(metric)
    return _of_object(metric, getattr(metric, "__name__", type(metric).__name__), {})


def _of_name(text: str) -> MetricFactory:
    name, arguments = _parsed(text)
    if name in METRICS:
        kind: Any = METRICS[name]
        library = _LIBRARIES.get(name)
        if library is not None and importlib.util.find_spec(library) is None:
            raise UsageError(f"metric {name} needs the package {library}; install convert-onnx[metrics]")
    else:
        kind = load_entry_point(GROUP, name, METRICS, UsageError)
        if kind is None:
            raise UsageError(
                f"no metric is named {name!r}; there are: {', '.join(metric_names())}, or FILE.py:CALLABLE"
            )
    if isinstance(arguments.get("decode"), str):
        arguments["decode"] = _function(arguments["decode"])
    return _of_object(kind, name, arguments)


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the named literal arguments of ``NAME`` or ``NAME(key=value)``."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        node = None
    if isinstance(node, ast.Name):
        return node.id, {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        try:
            return node.func.id, {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
        except ValueError:
            pass
    raise UsageError(f"metric {text!r} cannot be read; write a name such as top1, psnr(peak=255) or FILE.py:CALLABLE")


def _function(text: str) -> Callable[..., Any]:
    """Return the user's function for an argument of a metric."""
    spec = parse_spec(text, "FILE.py:FUNCTION")
    with load_name(spec.path, spec.name, UsageError) as value:
        if not callable(value):
            raise UsageError(f"{spec} is {type(value).__name__}, not a function")
        return _guarded(value, str(spec))


def _of_object(value: Any, name: str, arguments: Mapping[str, Any]) -> MetricFactory:
    if not callable(value):
        raise UsageError(
            f"metric {name} is {type(value).__name__}; give a name, a class derived from Metric or a function"
        )
    made: MetricFactory
    if isinstance(value, type) and issubclass(value, Metric):
        made = partial(value, **arguments)
    elif _reads_outputs(value):
        made = partial(
            _FunctionMetric,
            partial(_guarded(value, name), **arguments) if arguments else _guarded(value, name),
            name,
            value,
        )
    else:
        made = partial(value, **arguments)
    try:
        if value in METRICS.values():
            first = made()
        else:
            with user_code(f"metric {name}", UsageError):
                first = made()
    except TypeError as error:
        raise UsageError(f"metric {name}: {str(error).partition('() ')[2] or error}") from error
    if not isinstance(first, Metric):
        raise UsageError(
            f"metric {name} gives {type(first).__name__}; derive a class from converter.Metric, or write a function of "
            "(outputs, labels)"
        )
    return made


def _reads_outputs(function: Any) -> bool:
    """Whether a function has two parameters without a default: outputs and labels."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len([each for each in parameters if each.kind in positional and each.default is each.empty]) == 2


def _guarded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function, whose errors name the file and the line."""

    def call(*arguments: Any, **named: Any) -> Any:
        with user_code(name, UsageError):
            return function(*arguments, **named)

    return call


class _FunctionMetric(SampleMean):
    """The mean of what a user's function returns for each sample, or for each batch."""

    name = "metric"

    def __init__(self, function: Callable[..., Any], name: str, source: Any) -> None:
        super().__init__()
        self._function = function
        self.name = name.rpartition(":")[2]  # type: ignore[misc]
        self.higher_is_better = bool(getattr(source, "higher_is_better", True))  # type: ignore[misc]
        self.unit = str(getattr(source, "unit", ""))  # type: ignore[misc]
        self.needs = ()  # type: ignore[misc]

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        count = len(next(iter(outputs.values())))
        try:
            values = np.asarray(self._function(outputs, labels), np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"metric {self.name}: the function must return a number, or one for each sample"
            ) from error
        return np.repeat(values, count) if len(values) == 1 else values
