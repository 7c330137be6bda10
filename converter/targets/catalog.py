"""The targets: what each execution provider accepts, as data. The writer and the rules read these facts.

No other module knows a target's name. Every fact has a source, under the name of its field. No target takes a source
from another target, except cpu-avx2, which is cpu with one more rule. A source is a page, a file of the provider's
source code, our own choice, or the command that measured the fact, which begins with "measured".
"""

from collections.abc import Mapping
from types import MappingProxyType

from converter.model_io.entry_points import entry_point_names, load_entry_point
from converter.targets.accelerators import CUDA_GPU, MOBILE, OPENVINO, QNN_HTP, TENSORRT_GPU
from converter.targets.cpus import CPU, CPU_AVX2, GENERIC, WEB
from converter.targets.documented import ACL_CPU, COREML_APPLE, DIRECTML_GPU, OPENVINO_NPU, VITISAI, XNNPACK_CPU
from converter.targets.target import Target
from passes.arguments import require_type
from passes.errors import TargetError

__all__ = ["DEFAULT_TARGET", "GROUP", "TARGETS", "Target", "find_target", "known_targets"]

GROUP = "convert_onnx.targets"
"""Group of entry points in which other packages offer their targets."""

DEFAULT_TARGET = "cpu"

_ALL = (
    *(CPU, OPENVINO, QNN_HTP, TENSORRT_GPU, CUDA_GPU, WEB, MOBILE, GENERIC, CPU_AVX2),
    *(VITISAI, XNNPACK_CPU, DIRECTML_GPU, OPENVINO_NPU, COREML_APPLE, ACL_CPU),
)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})


def find_target(name: str) -> Target:
    """The target with this name: one of `TARGETS`, or one that another package offers in the entry points of `GROUP`.

    Raises:
        TargetError: There is no such target, or the entry point gives no `Target` with this name.
    """
    require_type("target", name, str, "the name of a target")
    if name in TARGETS:
        return TARGETS[name]
    target = load_entry_point(GROUP, name, TARGETS, TargetError)
    if target is None:
        names = [*TARGETS, *entry_point_names(GROUP, TARGETS, TargetError)]
        raise TargetError(f"no target is named {name!r}; there are: {', '.join(names)}")
    if not isinstance(target, Target) or target.name != name:
        raise TargetError(f"entry point {name!r} in {GROUP} is {target!r}, which is no target of that name")
    return target


def known_targets() -> dict[str, Target]:
    """All targets by name: the built-in ones, then those of other packages.

    Raises:
        TargetError: See `find_target`.
    """
    return {name: find_target(name) for name in (*TARGETS, *entry_point_names(GROUP, TARGETS, TargetError))}
