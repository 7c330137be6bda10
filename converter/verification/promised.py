"""Compares the runtime version that a target promises with the version that ran.

>>> stands("onnxruntime 1.20", "onnxruntime 1.31.1"), stands("onnxruntime-web 1.30", "onnxruntime-web 1.30.0")
('newer', 'promised')
"""

import re
from typing import Literal

from converter.targets.catalog import TARGETS
from converter.targets.target import Target

__all__ = ["older_targets", "stands"]


def stands(promised: str, runtime: str) -> Literal["older", "promised", "newer", "unknown"]:
    """Compare a runtime with the oldest promised one, by the packages that both name.

    A promised version of two numbers covers all versions that begin with them.
    """
    oldest, present = _versions(promised), _versions(runtime)
    pairs = [(version, present[name][: len(version)]) for name, version in oldest.items() if name in present]
    if not pairs:
        return "unknown"
    if any(ran < version for version, ran in pairs):
        return "older"
    return "newer" if any(ran > version for version, ran in pairs) else "promised"


def older_targets(target: Target, runtime: str) -> list[str]:
    """Other targets of the same provider that promise to work with this runtime."""
    return [
        other.name
        for other in TARGETS.values()
        if other.provider == target.provider
        and other.name != target.name
        and stands(other.runtime, runtime) in {"promised", "newer"}
    ]


def _versions(text: str) -> dict[str, tuple[int, ...]]:
    """Packages and their versions in a text such as "onnxruntime 1.31.1, onnxruntime-qnn 2.7.0, HTP"."""
    pairs = re.findall(r"([A-Za-z][\w-]*) (\d+(?:\.\d+)*)", text)
    return {name: tuple(map(int, version.split("."))) for name, version in pairs}
