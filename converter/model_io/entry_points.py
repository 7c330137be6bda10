"""Passes and targets of other packages, found by their entry points (`importlib.metadata`).

A package offers one in its pyproject.toml:

    [project.entry-points."convert_onnx.passes"]
    clip_weights = "my_package.clip:ClipWeights"

Another package is imported only when its pass or target is requested by name.
"""

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points

from converter.model_io.user_code import user_code
from passes.errors import ConvertError

__all__ = ["GROUPS", "entry_point_names", "load_entry_point"]

GROUPS = ("convert_onnx.metrics", "convert_onnx.passes", "convert_onnx.targets")
"""The groups of entry points that this project reads. No code requests metrics by name yet."""


def entry_point_names(group: str, built_in: Collection[str], error_type: type[ConvertError]) -> list[str]:
    """Names that installed packages offer in a group, sorted.

    Raises:
        ConvertError: An ``error_type``: a package offers a name of ``built_in``, which would never be used.
    """
    offered = entry_points(group=group)
    for each in offered:
        if each.name in built_in:
            raise error_type(
                f"package {_package(each)} offers {each.name!r} in group {group}, which is a built-in name; rename it "
                "there, or uninstall the package"
            )
    return sorted(offered.names)


def load_entry_point(group: str, name: str, built_in: Collection[str], error_type: type[ConvertError]) -> object | None:
    """Load the object that a package offers in a group under a name that is not built in. None if no package offers it.

    Raises:
        ConvertError: An ``error_type``: a package offers a name of ``built_in``, two packages offer the same name, or
            the package cannot be imported.
    """
    if name not in entry_point_names(group, built_in, error_type):
        return None
    offered = list(entry_points(group=group, name=name))
    packages = sorted({_package(each) for each in offered})
    if len(packages) > 1:
        raise error_type(f"{name!r} is in group {group} of {' and of '.join(packages)}; uninstall all but one")
    with user_code(f"entry point {name} = {offered[0].value!r} of package {packages[0]}", error_type):
        return offered[0].load()  # type: ignore[no-any-return]


def _package(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else entry.dist.name
