"""Last step of a conversion: write the file in the form that its target needs, with its provenance."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from converter.data.embedding import store_embedded
from converter.pipeline.branch_constants import share_branch_constants
from converter.pipeline.emit_fused import emit_fused
from converter.pipeline.float16 import as_float16, narrowed
from converter.pipeline.prepare import JUDGING, Prepared
from converter.pipeline.result import LayerReport, layer_reports, stamp, versions
from converter.pipeline.trial_run import Fidelity, trial_run
from converter.qdq.descriptions import keep_descriptions
from converter.qdq.pruned import CHANNELS_KEY, pruned_patterns
from converter.qdq.pruned import KEY as PRUNED_KEY
from converter.qdq.writer import emit
from converter.speed.search import Speed
from converter.verification.fit import fix_batch, require_kernels
from passes.ir.model import Model
from passes.report import PassReport

__all__ = ["Written", "write_file"]

_WATCHED = 4  # samples that show how large values become
_TWO_BITS = "MatMulNBits with 2-bit codes: the file needs an onnxruntime newer than 1.23"


def _has_two_bit_blocks(model: onnx.ModelProto) -> bool:
    """Whether a node is a MatMulNBits of 2 bits."""
    nodes = (node for node in model.graph.node if node.op_type == "MatMulNBits")
    return any(entry.name == "bits" and entry.i == 2 for node in nodes for entry in node.attribute)


def _without_path(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a description of data without their path, so that the file does not depend on it. It has their digest."""
    return None if data is None else {key: value for key, value in data.items() if key != "source"}


@dataclass(frozen=True)
class Written:
    """A quantized file in memory.

    Attributes:
        work: The model after all passes.
        reports: Reports of the passes.
        model: The file.
        layers: Reports of the layers.
        fidelity: Distance from float on a few samples. None if there were none.
    """

    work: Model
    reports: tuple[PassReport, ...]
    model: onnx.ModelProto
    layers: tuple[LayerReport, ...]
    fidelity: Fidelity | None


def write_file(
    work: Model,
    reports: list[PassReport],
    job: Prepared,
    speed: Speed | None,
    branches: Mapping[tuple[str, str], Sequence[LayerReport]],
) -> Written:
    """Write a model in memory and try it.

    Raises:
        TargetError: The target has no kernel for a node that stayed in float.
        VerificationError: The file does not run, or runs differently without onnxruntime's optimizations.
    """
    storage = job.target.storage(job.recipe.storage)
    with job.footprint.step("emit"):
        quantized = emit(work, storage, smallest=True) if job.recipe.keeps else emit_fused(work, storage, job.target)
        layers = layer_reports(work, reports, storage, branches)
    share_branch_constants(quantized.graph)
    require_kernels(quantized, job.target)
    fix_batch(quantized, job.target)
    keep_descriptions(quantized, job.source)
    facts: dict[str, Any] = {
        "target": job.target.name,
        "calibration": _without_path(job.images.describe_calibration()),
        "training": _without_path(job.images.describe_training(job.recipe)),
        "versions": versions(),
    }
    taken = next((report.taken for report in reports if report.taken is not None), None)
    if taken is not None:
        facts[CHANNELS_KEY] = dataclasses.asdict(taken)
    if job.settings.float16 or job.recipe.narrows_floats:
        with job.footprint.step("float16"):
            alone = job.recipe.narrows_floats
            note, facts["float16"] = narrowed(quantized, work, job.target, job.samples(_WATCHED), whole=alone)
        reports = [*reports[:-1], dataclasses.replace(reports[-1], notes=(*reports[-1].notes, note))]
        layers = as_float16(layers, quantized)
    if _has_two_bit_blocks(quantized):
        reports = [*reports[:-1], dataclasses.replace(reports[-1], notes=(*reports[-1].notes, _TWO_BITS))]
    if speed is not None:
        facts["speed"] = speed.to_json()
    if job.recipe.keeps and (patterns := pruned_patterns(job.source)):
        facts[PRUNED_KEY] = {layer.name: patterns[layer.name] for layer in layers if layer.name in patterns}
    whole = job.recipe
    if job.embedded is not None:
        whole = dataclasses.replace(whole, preprocess=job.embedded.preprocess)
    stamp(quantized, whole, layers, work.float_activations, facts)
    if job.embedded is not None:
        store_embedded(quantized, job.embedded)
    with job.footprint.step("try"):
        samples = job.samples(JUDGING.most)
        fidelity = trial_run(quantized, job.reference, samples, job.samples_are) if samples else None
    return Written(work, tuple(reports), quantized, layers, fidelity)
