"""Environments of the runtimes, in build/targets/NAME: virtual environments or folders of npm packages."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.shared_data import ROOT

__all__ = ["ENVIRONMENTS", "FOLDER", "Environment", "set_up"]

FOLDER = ROOT / "build" / "targets"


@dataclass(frozen=True)
class Environment:
    """Packages of one registry, with their versions."""

    packages: tuple[str, ...]
    npm: bool = False


ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType(
    {
        "cpu-oldest": Environment(("onnxruntime==1.23.0", "numpy")),
        "generic": Environment(("onnxruntime==1.20.1", "numpy")),
        "openvino": Environment(("onnxruntime-openvino==1.24.1", "numpy")),
        "qnn": Environment(("onnxruntime==1.31.1", "onnxruntime-qnn==2.7.0", "numpy")),
        "web": Environment(("onnxruntime-web@1.30.0",), npm=True),
        "node": Environment(("onnxruntime-node@1.30.0",), npm=True),
    }
)


def set_up(name: str, folder: Path = FOLDER) -> Path:
    """Return the environment's folder. It is created if it does not exist or has other packages.

    Raises:
        subprocess.CalledProcessError: A package cannot be installed.
        FileNotFoundError: npm is not on the path.
    """
    environment, path = ENVIRONMENTS[name], folder / name
    stamp, wanted = path / ".installed", "\n".join(environment.packages)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return path
    shutil.rmtree(path, ignore_errors=True)
    if environment.npm:
        path.mkdir(parents=True)
        # the install script of onnxruntime-node would download CUDA libraries; the package contains those for the CPU
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(path)]
        subprocess.run([*npm, *environment.packages], check=True)
    else:
        venv.create(path, with_pip=True)
        python = str(path / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *environment.packages]
        subprocess.run(install, check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return path
