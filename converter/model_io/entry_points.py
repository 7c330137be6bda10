"""Passes and targets of other packages, found by their entry points (`importlib.metadata`).

A package offers one in its pyproject.toml:

    [project.entry-points."convert_onnx.passes"]
    clip_weights = "my_package.clip:ClipWeights"

Nothing of another package is imported before its name is asked for.
"""

from importlib.metadata import EntryPoint, entry_points

from converter.model_io.user_code import user_code
from passes.errors import ConvertError

__all__ = ["GROUPS", "entry_point_names", "load_entry_point"]

GROUPS = ("convert_onnx.metrics", "convert_onnx.passes", "convert_onnx.targets")
"""The groups of entry points that this project reads; nothing asks for metrics by name yet."""


def entry_point_names(group: str) -> list[str]:
    """Names that installed packages offer in a group, sorted."""
    return sorted({each.name for each in entry_points(group=group)})


def load_entry_point(group: str, name: str, error_type: type[ConvertError]) -> object | None:
    """What a package offers in a group under a name; None if no package does.

    Raises:
        ConvertError: of ``error_type``. Two packages offer the name, or the package cannot be imported.
    """
    offered = list(entry_points(group=group, name=name))
    if not offered:
        return None
    packages = sorted({_package(each) for each in offered})
    if len(packages) > 1:
        raise error_type(f"{name!r} is in group {group} of {' and of '.join(packages)}; uninstall all but one")
    with user_code(f"entry point {name} = {offered[0].value!r} of package {packages[0]}", error_type):
        return offered[0].load()  # type: ignore[no-any-return]


def _package(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else entry.dist.name
