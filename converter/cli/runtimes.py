"""Installation of the targets' runtimes, each into a folder of its own: a virtual environment or npm packages.

The folder is ``$CONVERT_ONNX_TARGETS/NAME``, or ``build/targets/NAME`` in the current folder. `verify` looks there.
"""

import errno
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from converter.verification.environments import runtimes_folder

__all__ = ["RUNTIMES", "Runtime", "install", "set_up"]


_STAMP, _PARTIAL = ".installed", ".partial"


@dataclass(frozen=True)
class Runtime:
    """Packages of one registry, with their versions.

    Attributes:
        packages: Packages with their versions.
        npm: Whether they are of npm. Else they are of PyPI.
    """

    packages: tuple[str, ...]
    npm: bool = False


RUNTIMES: Mapping[str, Runtime] = MappingProxyType(
    {
        "cpu-oldest": Runtime(("onnxruntime==1.23.0", "numpy")),
        "generic": Runtime(("onnxruntime==1.20.1", "numpy")),
        "openvino": Runtime(("onnxruntime-openvino==1.24.1", "numpy")),
        "qnn": Runtime(("onnxruntime==1.31.1", "onnxruntime-qnn==2.7.0", "numpy")),
        "web": Runtime(("onnxruntime-web@1.30.0",), npm=True),
        "node": Runtime(("onnxruntime-node@1.30.0",), npm=True),
    }
)


def set_up(name: str, folder: Path | None = None) -> Path:
    """Return the folder of a runtime. See `install`.

    Args:
        name: Key of `RUNTIMES`.
        folder: Folder for the runtime's own folder. The default is `runtimes_folder`.
    """
    return install(RUNTIMES[name], (folder or runtimes_folder()) / name)


def install(runtime: Runtime, path: Path) -> Path:
    """Return the folder of packages. It is created if it does not exist or has other packages.

    Raises:
        subprocess.CalledProcessError: A package cannot be installed.
        FileNotFoundError: npm is not on the path.
        FileExistsError: The folder is somebody else's.
    """
    stamp, wanted = path / _STAMP, "\n".join(runtime.packages)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return path
    if path.exists() and not any((path / name).exists() for name in (_STAMP, _PARTIAL)):
        raise FileExistsError(
            errno.EEXIST, "it is not from `targets setup`; remove it, or name another folder", str(path)
        )
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / _PARTIAL).touch()
    try:
        _install(runtime, path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    stamp.write_text(wanted, encoding="utf-8")
    (path / _PARTIAL).unlink()
    return path


def _install(runtime: Runtime, path: Path) -> None:
    if runtime.npm:
        # the install script of onnxruntime-node would download CUDA libraries; the package contains those for the CPU
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(path)]
        subprocess.run([*npm, *runtime.packages], check=True)
    else:
        venv.create(path, with_pip=True)  # beside the mark of a part that is there
        python = str(path / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *runtime.packages]
        subprocess.run(install, check=True)
