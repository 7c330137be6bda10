"""The runtime versions that a target promises, and how the one that ran stands to them.

>>> stands("onnxruntime 1.20", "onnxruntime 1.31.1"), stands("onnxruntime-web 1.30", "onnxruntime-web 1.30.0")
('newer', 'promised')
"""

import re
from typing import Literal

from converter.targets.catalog import TARGETS
from converter.targets.target import Target

__all__ = ["older_targets", "stands"]


def stands(promised: str, runtime: str) -> Literal["older", "promised", "newer", "unknown"]:
    """How a runtime stands to the oldest that is promised, by the packages that both name.

    A version of two numbers stands for all that begin with them.
    """
    oldest, found = _versions(promised), _versions(runtime)
    pairs = [(version, found[name][: len(version)]) for name, version in oldest.items() if name in found]
    if not pairs:
        return "unknown"
    if any(ran < version for version, ran in pairs):
        return "older"
    return "newer" if any(ran > version for version, ran in pairs) else "promised"


def older_targets(target: Target, runtime: str) -> list[str]:
    """Other targets of the same provider whose promise holds for this runtime."""
    return [
        other.name
        for other in TARGETS.values()
        if other.provider == target.provider
        and other.name != target.name
        and stands(other.runtime, runtime) in {"promised", "newer"}
    ]


def _versions(text: str) -> dict[str, tuple[int, ...]]:
    """The packages of "onnxruntime 1.31.1, onnxruntime-qnn 2.7.0, HTP" and their versions."""
    found = re.findall(r"([A-Za-z][\w-]*) (\d+(?:\.\d+)*)", text)
    return {name: tuple(map(int, version.split("."))) for name, version in found}
