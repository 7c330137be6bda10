"""Environments with a target's runtime: this interpreter, a given one, or a folder that `targets setup` made.

A Python environment runs `provider_session.py`. A folder of npm packages runs `node_session.mjs`. Both scripts depend
on nothing of this project, so the runtime may be older or newer than this one's. A crash of its libraries is a verdict,
and does not end the tool.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from converter.targets.target import Target
from passes.errors import TargetError, argument

__all__ = ["Environment", "find_environment", "runtimes_folder"]

_SCRIPTS = Path(__file__).parent
_FOLDER = Path("build") / "targets"
_HINT = "convert-onnx targets setup"
_PACKAGES: Mapping[str, str] = MappingProxyType(
    {"cpu": "onnxruntime", "openvino": "onnxruntime-openvino", "qnn": "onnxruntime-qnn"}
)


@dataclass(frozen=True)
class Environment:
    """An environment that runs a session script.

    Attributes:
        command: Command that takes a job file.
        name: Name of the environment in messages.
        mend: What to do if the environment lacks the provider.
        package: npm package to load. None for Python.
    """

    command: tuple[str, ...]
    name: str
    mend: str
    package: str | None = None


def find_environment(target: Target, given: Path | None = None) -> Environment | str:
    """The environment that runs the target's provider, or the reason why there is none.

    The order of the search is: ``given``, this interpreter, then the folder with the target's name in
    $CONVERT_ONNX_TARGETS or build/targets.

    Args:
        target: The target.
        given: An interpreter, a virtual environment or a folder with node_modules.

    Raises:
        TargetError: ``given`` is none of these, or the target's provider cannot run on this kind of machine.
    """
    if target.provider is None:
        if given is not None:
            raise TargetError(
                f"target {target.name} cannot be run here; leave out `runtime=` to have its rules checked"
            )
        return target.sources["provider"]
    folder = runtimes_folder() / target.name
    if target.provider == "web":
        return _node(target, given or folder, required=given is not None)
    package = _PACKAGES[target.provider]
    if given is not None:
        python = _interpreter(given)
        if python is None:
            what = "neither a Python interpreter nor a virtual environment" if given.exists() else "not there"
            raise TargetError(f"{argument(runtime=str(given))} is {what}; give a Python that has {package}")
        return _python(python, argument(runtime=str(given)), package)
    own = _has_provider(target.provider)
    other = _interpreter(folder)
    if other is not None and (not own or target.name != target.provider):
        return _python(other, str(folder), package)
    if own:
        return _python(Path(sys.executable), sys.executable, package)
    return f"no {target.provider} provider in this environment or in {folder}; {_HINT} {target.name} installs it"


def runtimes_folder() -> Path:
    """Return the folder in which runtimes are installed, each in a folder with the name of its target."""
    return Path(os.environ.get("CONVERT_ONNX_TARGETS") or _FOLDER)


def _has_provider(provider: str) -> bool:
    if provider == "openvino":
        import onnxruntime as ort

        return "OpenVINOExecutionProvider" in ort.get_available_providers()
    return provider == "cpu" or importlib.util.find_spec("onnxruntime_qnn") is not None


def _interpreter(path: Path) -> Path | None:
    """The interpreter at a path. A link is not resolved, because its location decides which packages are found."""
    for candidate in (path, path / "bin" / "python", path / "Scripts" / "python.exe"):
        if candidate.is_file():
            return candidate.absolute()
    return None


def _python(python: Path, name: str, package: str) -> Environment:
    mend = f"give a Python that has {package}, or install it there"
    return Environment((str(python), str(_SCRIPTS / "provider_session.py")), name, mend)


def _node(target: Target, folder: Path, *, required: bool) -> Environment | str:
    """An environment with onnxruntime-web, or with onnxruntime-node if the folder has only that."""
    modules = (folder if folder.name == "node_modules" else folder / "node_modules").absolute()
    package = next((name for name in ("onnxruntime-web", "onnxruntime-node") if (modules / name).is_dir()), None)
    node = shutil.which("node")
    if package is None and required:
        raise TargetError(f"{argument(runtime=str(folder))} has no node_modules/onnxruntime-web; run npm install there")
    if package is None:
        return f"no onnxruntime-web in {folder}; {_HINT} {target.name} installs it"
    if node is None:
        return "node is not on the path; install Node.js to run onnxruntime-web"
    name = argument(runtime=str(folder)) if required else str(folder)
    mend = f"run npm install {package} there"
    return Environment((node, str(_SCRIPTS / "node_session.mjs")), name, mend, str(modules / package))
