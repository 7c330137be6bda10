"""Programs of `convert-onnx snippet`, compiled where they must be, and run on an image.

`PACKAGES` are sharp, for the image of Node.js, and onnxruntime's C++ headers. None of onnxruntime's own packages on
PyPI and npm has these headers. That of a plug-in for Unity has them, of onnxruntime 1.29. The library is that of the
Python package, which is newer and runs programs of older headers. C++ also needs a compiler and OpenCV.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

import converter
from benchmarks.shared_data import ROOT, MissingData
from benchmarks.targets.browser import open_in_browser, why_no_page
from converter.cli.runtimes import Runtime

__all__ = ["LANGUAGES", "MODULES", "PACKAGES", "Ran", "run_program", "why_no"]

PACKAGES = Runtime(("sharp@0.35.5", "com.github.asus4.onnxruntime@0.4.9"), npm=True)
"""What programs need besides the runtimes of the targets."""

_TARGETS = ROOT / "build" / "targets"
MODULES = _TARGETS / "snippets"
"""Folder of `PACKAGES`."""

_NODE = MappingProxyType({"onnxruntime-node": _TARGETS / "node" / "node_modules", "sharp": MODULES / "node_modules"})
_FRAMEWORK = "Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers"
_HEADERS = MODULES / "node_modules" / "com.github.asus4.onnxruntime" / _FRAMEWORK
_OPENCV = Path("/usr/include/opencv4")
_SETUP = "run python -m benchmarks.targets snippets"
_TIMEOUT = 120.0


@dataclass(frozen=True)
class Ran:
    """What a program gave.

    Attributes:
        printed: What it printed.
        values: Elements of its first output. Those in float16 are their bits.
    """

    printed: str
    values: NDArray[np.float64]


def run_program(model: Path, language: str, image: Path, folder: Path) -> Ran:
    """Run the program of a file on an image.

    Args:
        model: The file.
        language: Key of `LANGUAGES`.
        image: Image, in any format.
        folder: Empty folder for the program.

    Raises:
        MissingData: What runs the language is not on this machine.
        RuntimeError: The program does not compile or run.
    """
    missing = why_no(language)
    if missing:
        raise MissingData(missing)
    shutil.copy(model, folder)
    shutil.copy(image, folder / "image.jpg")
    return LANGUAGES[language](converter.snippet(model, language), _first_output(model), folder)


def _first_output(model: Path) -> onnx.ValueInfoProto:
    first: onnx.ValueInfoProto = onnx.load(model, load_external_data=False).graph.output[0]
    return first


def why_no(language: str) -> str:
    """Return why no program in a language can run here, or nothing if one can."""
    checks: dict[str, Callable[[], str]] = {
        "js": partial(why_no_page, _TARGETS / "web"),
        "node": _why_no_node,
        "cpp": _why_no_cpp,
    }
    return checks[language]() if language in checks else ""


def _why_no_node() -> str:
    if shutil.which("node") is None:
        return "node is not on the path; install Node.js"
    absent = (f"no {name} in {place}; {_SETUP}" for name, place in _NODE.items() if not (place / name).is_dir())
    return next(absent, "")


def _why_no_cpp() -> str:
    if shutil.which("g++") is None:
        return "g++ is not on the path; install it"
    if not (_OPENCV / "opencv2" / "imgproc.hpp").is_file():
        return f"no OpenCV in {_OPENCV}; install libopencv-imgcodecs-dev and libopencv-imgproc-dev (Debian, Ubuntu)"
    return "" if _HEADERS.is_dir() else f"no C++ headers of onnxruntime in {MODULES}; {_SETUP}"


def _ran(command: list[str], folder: Path) -> str:
    """Run a command and return what it prints.

    Raises:
        RuntimeError: It fails.
    """
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _split(printed: str) -> Ran:
    """Separate what the program prints from the last line, which has its output as JSON."""
    *lines, values = printed.strip().splitlines()
    return Ran("\n".join(lines), np.array(json.loads(values), np.float64))


def _python(program: str, _: onnx.ValueInfoProto, folder: Path) -> Ran:
    shown = "import json\nprint(json.dumps(outputs[0].ravel().tolist()))\n"
    (folder / "program.py").write_text(program + shown, encoding="utf-8")
    return _split(_ran([sys.executable, "program.py"], folder))


def _numbers(output: onnx.ValueInfoProto) -> str:
    """JavaScript's expression of the elements. Those in float16 are floats or bits, as the engine has it."""
    data = f"outputs[{json.dumps(output.name)}].data"
    if output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        data = f"new Uint16Array({data}.buffer, {data}.byteOffset, {data}.length)"
    return f"Array.from({data}, Number)"


def _node(program: str, output: onnx.ValueInfoProto, folder: Path) -> Ran:
    (folder / "node_modules").mkdir()
    for name, place in _NODE.items():
        (folder / "node_modules" / name).symlink_to(place / name)
    shown = f"console.log(JSON.stringify({_numbers(output)}));\n"
    (folder / "program.mjs").write_text(program + shown, encoding="utf-8")
    return _split(_ran(["node", "program.mjs"], folder))


_PAGE = """<!doctype html>
<script type="importmap">{"imports": {"onnxruntime-web": "/ort/ort.wasm.min.mjs"}}</script>
<script>
  const printed = [], log = console.log;
  console.log = (...values) => { printed.push(values.join(" ")); log(...values); };
  const post = (result) => fetch("/result", { method: "POST", body: JSON.stringify(result) });
  addEventListener("error", (event) => post({ error: String(event.message ?? "a script is not there") }), true);
  addEventListener("unhandledrejection", (event) => post({ error: String(event.reason) }));
</script>
<script type="module" src="/program.mjs"></script>
"""


def _browser(program: str, output: onnx.ValueInfoProto, folder: Path) -> Ran:
    shown = f"post({{ printed, values: {_numbers(output)} }});\n"
    (folder / "program.mjs").write_text(program + shown, encoding="utf-8")
    (folder / "page.html").write_text(_PAGE, encoding="utf-8")
    files = {f"/{file.name}": file for file in folder.iterdir()} | {"/": folder / "page.html"}
    answer = open_in_browser(files, _TARGETS / "web")
    return Ran("\n".join(answer["printed"]), np.array(answer["values"], np.float64))


_SHOWN = """  std::cout << "[";
  for (size_t at = 0; at < results[0].GetTensorTypeAndShapeInfo().GetElementCount(); ++at)
    std::cout << (at ? "," : "") << +results[0].GetTensorData<{kind}>()[at]{value};
  std::cout << "]" << std::endl;
}}
"""
_KINDS: Mapping[int, str] = MappingProxyType(
    {onnx.TensorProto.FLOAT: "float", onnx.TensorProto.FLOAT16: "Ort::Float16_t", onnx.TensorProto.INT64: "int64_t"}
)


def _cpp(program: str, output: onnx.ValueInfoProto, folder: Path) -> Ran:
    kind = _KINDS[output.type.tensor_type.elem_type]
    shown = _SHOWN.format(kind=kind, value=".val" if kind == "Ort::Float16_t" else "")
    (folder / "program.cpp").write_text(program.rstrip().removesuffix("}") + shown, encoding="utf-8")
    library = folder / "libonnxruntime.so.1"  # the name that the library gives itself
    library.symlink_to(next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so*")))
    options = ["-std=c++17", "-O0", "-Wall", "-Werror", f"-isystem{_HEADERS}", f"-isystem{_OPENCV}"]
    libraries = [library.name, f"-Wl,-rpath,{folder}", "-lopencv_core", "-lopencv_imgcodecs", "-lopencv_imgproc"]
    _ran(["g++", *options, "program.cpp", "-o", "program", *libraries], folder)
    return _split(_ran([str(folder / "program")], folder))


LANGUAGES: Mapping[str, Callable[[str, onnx.ValueInfoProto, Path], Ran]] = MappingProxyType(
    {"python": _python, "node": _node, "js": _browser, "cpp": _cpp}
)
"""What runs a program, by the name of its language: program, name of the output, folder."""
