"""The package as a user installs it: from a wheel, outside the repository, without torch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from tests.support.models import images, small_cnn

pytestmark = pytest.mark.slow
pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
NO_TORCH = """
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoTorch())
"""
API = """
import sys
from pathlib import Path

import converter

result = converter.convert("model.onnx", "images.npz", recipe="int4", evaluation="images.npz")
result.save("api.onnx")
converter.write_report(result, "report.json")
print(Path(converter.__file__).parents[1], converter.__version__, "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, where torch cannot be imported."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "built")]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = (folder / "built").glob("*.whl")
    subprocess.run(
        [*pip, "install", str(wheel), "--no-deps", "--target", str(folder / "site")], check=True, capture_output=True
    )
    (folder / "site" / "sitecustomize.py").write_text(NO_TORCH)
    return folder / "site"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a model and images, far from the repository."""
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    np.savez(tmp_path / "images.npz", x=images(32), y=np.zeros(32, np.int64))
    return tmp_path


def run(site: Path, work: Path, *command: str) -> str:
    """Run a command with nothing of the project on its path but the wheel; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_is_read_at_run_time(site: Path) -> None:
    source = Path(converter.__file__).parent
    data = [
        path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert {path.suffix for path in data} >= {".html", ".css", ".js", ".json", ".mjs", ".typed"}
    assert not [path for path in data if not (site / "converter" / path).exists()]
    assert (site / "passes" / "py.typed").exists()
    assert not (site / "tests").exists()


def test_torch_is_not_there(site: Path, work: Path) -> None:
    code = "import importlib.util\ntry:\n    import torch\nexcept ModuleNotFoundError:\n    print('none')"
    assert run(site, work, sys.executable, "-c", code) == "none\n"


def test_the_library_works(site: Path, work: Path) -> None:
    folder, version, torch = run(site, work, sys.executable, "-c", API).split()
    assert (Path(folder), version, torch) == (site, converter.__version__, "False")
    assert (work / "api.onnx").exists()
    assert (work / "report.json").exists()


@pytest.mark.parametrize("how", ["module", "script"])
def test_the_command_line_works(site: Path, work: Path, how: str) -> None:
    start = [sys.executable, "-m", "converter"] if how == "module" else [str(site / "bin" / "convert-onnx")]
    shown = run(site, work, *start, "convert", "model.onnx", "-o", "out.onnx", "--calibration", "images.npz", "--quiet")
    assert shown.startswith("Wrote out.onnx (int8, cpu)")
    assert run(site, work, *start, "--version").split() == ["convert-onnx", converter.__version__]
    assert "layers on integers" in run(site, work, *start, "inspect", "out.onnx")
