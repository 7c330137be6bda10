"""Where a quantized model goes wrong: layer by layer against its float reference, and image by image.

Every tensor that both models have (`converter.comparison.matching`) is compared on all images: that is the error
*accumulated* so far. The float layer before it is run on the quantized network's own inputs of that layer
(`converter.comparison.subgraphs`): what then differs is the error *introduced* there. Memory does not grow with the
images.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.comparison.matching import Match, match_tensors
from converter.comparison.subgraphs import Subgraphs
from converter.comparison.transformed import cut_where_alike
from converter.data.dataset import Batch, Dataset
from converter.display.json_values import finite
from converter.display.numbers import decibels, percent
from converter.display.overview import Glance, Overview
from converter.model_io.load import read_whole_onnx
from converter.runtime.runner import Runner, class_scores
from converter.runtime.session import Progress
from passes.errors import ModelError
from passes.numerics.error import Likeness, SqnrSum, sqnr_db

__all__ = ["Comparison", "ImageError", "LayerError", "compare"]

_BATCH = 4  # every activation of two models is alive at once
_WORST = 5
_SHOWN = 10  # layers in an overview
_FLOATS = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(double)": 11}  # onnx.TensorProto's numbers


@dataclass(frozen=True)
class LayerError:
    """One matched tensor.

    layer, op       the node that computes it in the reference
    tensor          its name there
    sqnr_db         of what the quantized model has there: the error of everything up to here
    cosine          between the two
    introduced_db   SQNR against the float layer on the quantized model's inputs: the error of this layer alone
    layers          the linear layers between this tensor and those compared before it
    """

    layer: str
    op: str
    tensor: str
    sqnr_db: float
    cosine: float
    introduced_db: float
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageError:
    """One image: its file or its number in the data, the SQNR of its scores, and the classes both models see."""

    image: str
    sqnr_db: float
    expected: int | None
    found: int | None
    label: int | None


@dataclass(frozen=True, repr=False)
class Comparison(Overview):
    """A quantized model against its reference.

    layers      every matched tensor, in the order of the reference's graph
    unmatched   the reference's tensors without a counterpart
    transformed tensors that hold something else in the quantized model: their channels are scaled or rotated
    agreement   fraction of images with the same highest score; None unless the first output is [n, classes]
    sqnr_db     of the first output, of the model as it is deployed
    worst       the images whose first output suffers most, worst first
    """

    reference: str
    model: str
    images: int
    layers: tuple[LayerError, ...]
    unmatched: tuple[str, ...]
    agreement: float | None
    sqnr_db: float
    transformed: tuple[str, ...] = ()
    worst: tuple[ImageError, ...] = ()

    def overview(self) -> Glance:
        """The layers that add most error."""
        added = sorted((entry for entry in self.layers if entry.layers), key=lambda entry: entry.introduced_db)
        rows = tuple(
            (entry.layers[-1], entry.op, decibels(entry.sqnr_db), decibels(entry.introduced_db), f"{entry.cosine:.4f}")
            for entry in added[:_SHOWN]
        )
        agreed = "" if self.agreement is None else f", agreement {percent(self.agreement)}"
        headline = (
            f"Comparison of {self.model} with {self.reference} on {self.images:,} images: "
            f"SQNR {decibels(self.sqnr_db)}{agreed}"
        )
        notes = (f"{len(rows)} of {len(added)} layers, those that add most error first",) if rows else ()
        return Glance(headline, ("layer", "compared after", "so far", "added", "cosine"), rows, notes, range(2, 5))

    def to_json(self) -> dict[str, Any]:
        """The same as values JSON can hold: an infinite SQNR (no difference at all) becomes null."""
        values: dict[str, Any] = finite(asdict(self))
        return values


def compare(
    reference: onnx.ModelProto | Path,
    model: Path,
    data: Dataset,
    *,
    names: tuple[str, str] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run both models on all of `data`, with every tensor they share as an extra output; `names` are theirs.

    End-to-end figures come from the model file as it is: extra outputs can keep onnxruntime from fusing.

    Raises ModelError, naming the model, for one that cannot be loaded or run, or that has outputs of another shape.
    """
    float_name = "reference" if isinstance(reference, onnx.ModelProto) else str(reference)
    float_name, name = (float_name, str(model)) if names is None else names
    float_model = reference if isinstance(reference, onnx.ModelProto) else read_whole_onnx(reference)
    other_model = read_whole_onnx(model)
    matches, unmatched = match_tensors(float_model.graph, other_model.graph)
    expected = _Tap(float_model, float_name, [match.tensor for match in matches])
    found = _Tap(other_model, name, [match.other for match in matches])
    matches = [match for match in matches if match.tensor in expected.floats and match.other in found.floats]
    deployed = Runner(model, name)

    layers: _Layers | None = None
    images = _Images()
    for batch in data.batches(_BATCH):
        wanted, tensors = expected.run(batch)
        given = deployed.run(batch.feeds, batch.count)[0]
        if wanted.shape != given.shape:
            raise ModelError(
                f"{name}: first output is {list(given.shape)}, {float_name} gives {list(wanted.shape)}; "
                "compare models of one kind"
            )
        images.update(wanted, given, batch, data)
        _, others = found.run(batch)
        both = {match.tensor: (tensors[match.tensor], others[match.other]) for match in matches}
        feeds = {key: rows[: batch.count] for key, rows in expected.inputs(batch).items()}
        layers = layers or _Layers(float_model, both, expected.floats, feeds, expected.batch)
        layers.update(both, feeds)
        if progress is not None:
            progress("comparing", images.done, len(data))
    assert layers is not None  # a Dataset has at least one row
    return Comparison(
        float_name,
        name,
        images.done,
        layers.errors(matches),
        (*unmatched, *(match.tensor for match in matches if match.tensor in layers.unlike)),
        images.agreement,
        images.total.db,
        tuple(match.tensor for match in matches if match.tensor in layers.transformed),
        images.worst(),
    )


class _Layers:
    """The errors of every layer, batch by batch; the first batch decides where the reference is cut.

    unlike   tensors of another shape: the same name for another thing
    transformed tensors whose channels are scaled or rotated
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        both: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
        types: Mapping[str, int],
        feeds: Mapping[str, NDArray[Any]],
        batch: int | None,
    ) -> None:
        self.unlike = {tensor for tensor, (left, right) in both.items() if left.shape != right.shape}
        self._batch = batch
        wanted = {tensor: pair[0] for tensor, pair in both.items() if tensor not in self.unlike}
        given = {tensor: pair[1] for tensor, pair in both.items() if tensor not in self.unlike}
        self._subgraphs: Subgraphs
        self._subgraphs, self.transformed = cut_where_alike(reference, types, wanted, given, feeds, batch)
        kept = [tensor for tensor in wanted if tensor not in self.transformed]
        self._accumulated = {tensor: Likeness() for tensor in kept}
        self._introduced = {tensor: SqnrSum() for tensor in kept}

    def update(self, both: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], feeds: Mapping[str, NDArray[Any]]) -> None:
        for tensor, (exact, quantized) in both.items():
            if exact.shape != quantized.shape:  # the first batch can be as long as a channel axis that was swapped in
                self.unlike.add(tensor)
                self.transformed.discard(tensor)
                self._accumulated.pop(tensor, None)
        given = {tensor: quantized for tensor, (_, quantized) in both.items() if tensor not in self.unlike}
        computed = self._subgraphs.run(given, feeds, self._batch)
        for tensor, total in self._accumulated.items():
            exact, quantized = both[tensor]
            total.update(exact, quantized)
            self._introduced[tensor].update(computed.get(tensor, exact), quantized)  # inputs have no cell

    def errors(self, matches: Sequence[Match]) -> tuple[LayerError, ...]:
        subgraphs = self._subgraphs.subgraphs
        return tuple(
            LayerError(
                match.layer,
                match.op,
                match.tensor,
                self._accumulated[match.tensor].db,
                self._accumulated[match.tensor].cosine,
                self._introduced[match.tensor].db,
                subgraphs[match.tensor].layers if match.tensor in subgraphs else (),
            )
            for match in matches
            if match.tensor in self._accumulated
        )


class _Images:
    """The first outputs, image by image."""

    def __init__(self) -> None:
        self.total, self.done, self._agreed, self._classifier = SqnrSum(), 0, 0, True
        self._worst: list[tuple[float, int, ImageError]] = []

    def update(self, wanted: NDArray[Any], given: NDArray[Any], batch: Batch, data: Dataset) -> None:
        self.total.update(wanted, given)
        scores = class_scores(wanted), class_scores(given)
        best: list[NDArray[Any]] | None = None
        if scores[0] is None or scores[1] is None:
            self._classifier = False
        else:
            best = [scores[0].argmax(axis=1), scores[1].argmax(axis=1)]
            self._agreed += int((best[0] == best[1]).sum())
        for row in range(batch.count if wanted.ndim and len(wanted) == batch.count else 0):
            sqnr = sqnr_db(wanted[row], given[row])
            expected, found = (None, None) if best is None else (int(best[0][row]), int(best[1][row]))
            label = None if batch.labels is None else int(batch.labels[row])
            error = ImageError(data.name(self.done + row), sqnr, expected, found, label)
            entry = (-sqnr, -self.done - row, error)  # of equals the first
            (heapq.heappush if len(self._worst) < _WORST else heapq.heappushpop)(self._worst, entry)
        self.done += batch.count

    @property
    def agreement(self) -> float | None:
        return self._agreed / self.done if self._classifier else None

    def worst(self) -> tuple[ImageError, ...]:
        return tuple(error for _, _, error in sorted(self._worst, reverse=True) if np.isfinite(error.sqnr_db))


class _Tap:
    """A model with some of its tensors, inputs among them, as further outputs; `floats` are the types of the floats."""

    def __init__(self, model: onnx.ModelProto, name: str, tensors: Sequence[str]) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        first = tapped.graph.output[0].name
        inputs = {value.name for value in tapped.graph.input}
        present = {value.name for value in tapped.graph.output}
        extra = [tensor for tensor in dict.fromkeys(tensors) if tensor not in present | inputs]
        tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in extra)
        self._runner = Runner(tapped, name)
        self.batch = self._runner.batch
        self._inputs = inputs & set(tensors)
        types = self._runner.types
        self.floats = {
            spec.name: int(onnx.helper.np_dtype_to_tensor_dtype(spec.dtype))
            for spec in self._runner.specs
            if np.issubdtype(spec.dtype, np.floating)
        }
        self.floats |= {tensor: _FLOATS[types[tensor]] for tensor in tensors if types.get(tensor) in _FLOATS}
        self._runner.outputs = list(dict.fromkeys([first, *(tensor for tensor in tensors if tensor in types)]))

    def inputs(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """The model's own inputs."""
        return self._runner.inputs(batch.feeds)

    def run(self, batch: Batch) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """The model's first output, and the tensors by name."""
        outputs = self._runner.run(batch.feeds, batch.count)
        feeds = self.inputs(batch)
        tensors = dict(zip(self._runner.outputs, outputs, strict=True))
        return outputs[0], tensors | {name: feeds[name][: batch.count] for name in self._inputs}
