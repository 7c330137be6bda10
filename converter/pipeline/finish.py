"""Last step of a conversion: write the file in the form that its target needs, with its provenance."""

import logging
from collections.abc import Mapping, Sequence

import onnx

from converter.pipeline.emit_fused import emit_fused
from converter.pipeline.prepare import Prepared
from converter.pipeline.result import LayerReport, layer_reports, stamp, versions
from converter.pipeline.trial_run import Fidelity, trial_run
from converter.qdq.descriptions import keep_descriptions
from converter.qdq.writer import emit
from converter.speed.search import Speed
from converter.verification.fit import fix_batch, require_kernels
from passes.ir.model import Model
from passes.report import PassReport

__all__ = ["write_file"]

_LOG = logging.getLogger(__name__)


_TRIED = 8  # samples on which the file runs


def write_file(
    work: Model,
    reports: list[PassReport],
    job: Prepared,
    speed: Speed | None,
    branches: Mapping[tuple[str, str], Sequence[LayerReport]],
) -> tuple[onnx.ModelProto, tuple[LayerReport, ...], Fidelity | None]:
    """Return the quantized file, the report of every layer, and the distance from float on a few samples.

    Raises:
        TargetError: The target has no kernel for a node that stayed in float.
        VerificationError: The file does not run, or runs differently without onnxruntime's optimizations.
    """
    storage = job.target.storage(job.recipe.storage)
    with job.footprint.step("emit"):
        quantized = emit(work, storage) if job.recipe.keeps else emit_fused(work, storage, job.target)
        layers = layer_reports(work, reports, storage, branches)
    require_kernels(quantized, job.target)
    fix_batch(quantized, job.target)
    keep_descriptions(quantized, job.source)
    facts = {
        "target": job.target.name,
        "calibration": job.images.describe_calibration(),
        "training": job.images.describe_training(job.recipe),
        "versions": versions(),
    }
    measured = {} if speed is None else {"speed": speed.to_json()}
    stamp(quantized, job.recipe, layers, work.float_activations, facts | measured)
    with job.footprint.step("try"):
        samples = job.samples(_TRIED)
        fidelity = trial_run(quantized, job.reference, samples) if samples else None
    if fidelity is not None and not job.is_branch:
        if job.target.provider == "cpu" and job.target.rules.pair_sum is None and fidelity.saturation:
            _LOG.warning(f"{fidelity.saturation}; `target='cpu-avx2'` gives a file for both")
        if job.images.calibration is not None and fidelity.warning:
            _LOG.warning(fidelity.warning)
    return quantized, layers, fidelity
