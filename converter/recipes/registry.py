"""Passes by the names that recipes use."""

from collections.abc import Mapping
from types import MappingProxyType

from passes.activations.activation_ranges import ActivationRanges
from passes.activations.float_activations import FloatActivations
from passes.base import Pass
from passes.graph.exclude import Exclude
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.graph.normalise.normalise import Normalise
from passes.rotation.rotate import Rotate
from passes.scale_migration.awq import Awq
from passes.scale_migration.equalize import Equalize
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.keep import KeepCodes, KeepRanges
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.obq import Obq
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn

__all__ = ["PASSES"]

PASSES: Mapping[str, type[Pass]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Normalise,
            FoldBatchnorm,
            IntegerForms,
            Exclude,
            FloatActivations,
            Equalize,
            SmoothQuant,
            Awq,
            Rotate,
            ActivationRanges,
            KeepRanges,
            Rtn,
            Gptq,
            Obq,
            KeepCodes,
            BiasCorrection,
            ReestimateBatchnorm,
            LearnedRounding,
            Qat,
        )
    }
)
