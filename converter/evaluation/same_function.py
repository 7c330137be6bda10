"""Check that a rewritten model computes what the model of the user computes.

A model is rewritten when it is read (a newer opset, float32) and when its graph is normalised. Both models run on the
same samples, and on noise. They may differ by the last digits of float32 only.

Some networks amplify these digits. How much is measured, if needed: the model of the user runs on inputs that differ
by as much as one rounding. The rewritten model may differ from it by ten times that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from converter.model_io.protobuf import all_tensors
from converter.model_io.structure import read_structure
from converter.runtime.few_samples import Feeds, noise_like, perturbed
from converter.runtime.output_errors import Outputs, output_errors
from converter.runtime.runner import Runner
from passes.errors import ModelError

__all__ = ["Original"]

_SAME_DB = 60.0  # float32 has about 140 dB, of which a deep network loses 20 to 40
_AMPLIFIED_DB = 20.0  # a rewritten model has more roundings than the perturbed input
_HALVES = frozenset([onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
_ROUNDING, _HALF_ROUNDING = 2.0**-23, 2.0**-10  # of float32 and float16


class Original:
    """The model as the user gave it, with its outputs on a few samples.

    Args:
        model: The file or the model in memory.
        feeds: Inputs of the runs. Noise of the same shapes is added, unless the model fails on noise.
        name: Name of the model in messages.

    Attributes:
        names: Names of its outputs.

    Raises:
        ModelError: onnxruntime cannot load the model, or it fails on a real sample.
    """

    def __init__(self, model: Path | onnx.ModelProto, feeds: Sequence[Feeds], name: str) -> None:
        self._halves = _computes_in_halves(read_structure(model) if isinstance(model, Path) else model)
        self._model, self._name = model, name
        self._runner: Runner | None = None
        self.names = self.runner.outputs
        self._feeds, self._outputs = list(feeds), [self._run(feed) for feed in feeds]
        for seed, feed in enumerate(feeds):
            try:
                noise = noise_like(feed, seed)
                self._outputs.append(self._run(noise))
                self._feeds.append(noise)
            except ModelError:  # an input whose values must fit together, such as a length
                break

    @property
    def runner(self) -> Runner:
        """The model, open. `require` closes it, as a session holds all weights, and the next use opens it again."""
        if self._runner is None:
            self._runner = Runner(self._model, self._name)
        return self._runner

    def require(self, rewritten: onnx.ModelProto, step: str) -> None:
        """Require that a rewritten model gives the same outputs.

        Args:
            rewritten: The model.
            step: What rewrote it, for the message.

        Raises:
            ModelError: An output differs by more than rounding.
        """
        if not self._feeds:
            return
        self._runner = None
        errors = self._errors(Runner(rewritten, f"the model after {step}"))
        suspects = {name: error for name, error in errors.items() if error < _SAME_DB}
        if not suspects:
            return
        limits = self._amplified()
        wrong = {name: error for name, error in suspects.items() if error < limits[name] - _AMPLIFIED_DB}
        if wrong:
            name, error = min(wrong.items(), key=lambda item: item[1])
            raise ModelError(
                f"{self._name}: {step} changes what the model computes: output {name!r} has {error:.1f} dB "
                f"against the file as given, where rounding has {limits[name]:.0f} dB or more; this is a fault of "
                f"convert-onnx: report it; exporting the model at opset {_newest(rewritten)} may avoid it"
            )

    def _errors(self, runner: Runner) -> dict[str, float]:
        runs = [runner.execute(runner.inputs(feed)) for feed in self._feeds]
        return output_errors(self._outputs, runs, self.names)

    def _amplified(self) -> dict[str, float]:
        """Return the SQNR of every output when the inputs differ by one rounding, or `_SAME_DB` if it is higher."""
        amount = _HALF_ROUNDING if self._halves else _ROUNDING
        moved = [self._run(perturbed(feed, amount, seed)) for seed, feed in enumerate(self._feeds)]
        errors: Mapping[str, float] = output_errors(self._outputs, moved, self.names)
        return {name: min(error, _SAME_DB + _AMPLIFIED_DB) for name, error in errors.items()}

    def _run(self, feeds: Feeds) -> Outputs:
        return self.runner.execute(self.runner.inputs(feeds))


def _computes_in_halves(model: onnx.ModelProto) -> bool:
    """Whether a tensor of the model is float16 or bfloat16."""
    casts = (attribute.i for node in model.graph.node if node.op_type == "Cast" for attribute in node.attribute)
    return not _HALVES.isdisjoint({*(tensor.data_type for tensor in all_tensors(model.graph)), *casts})


def _newest(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
