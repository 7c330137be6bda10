"""Real photographs without a download: 224x224 crops of photographs in the wheels of scikit-image and scikit-learn.

Calibration and evaluation crops come from different photographs, so evaluation images did not calibrate. (The two
motorcycle pictures show one scene and stay together.) Drawings, text pages, checkerboards, phantoms and pictures that
scikit-image would download are left out.

Licences, as the two packages state them. scikit-image: astronaut, brick, camera, chelsea, coffee, coins, grass,
gravel, hubble, ihc, retina and rocket are CC0, in the public domain or without known copyright restrictions; the
motorcycle pair is from the Middlebury 2014 stereo benchmark (D. Scharstein and others), cited there without a licence.
scikit-learn: china.jpg and flower.jpg are CC BY 2.0, attributed in its datasets/images/README.txt. The crops are made
where they are used; none is part of this project.

    python -m benchmarks.photographs --out DIR
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["CALIBRATION", "EVALUATION", "SIZE", "Draw", "Photograph", "calibration_crops", "evaluation_crops", "main"]

SIZE = 224


@dataclass(frozen=True)
class Photograph:
    """One picture file inside an installed package, and the number of its crops in each round."""

    package: str
    file: str
    weight: int = 1

    def load(self) -> Image.Image:
        """Load the picture as RGB. A grayscale picture gets three equal channels."""
        try:
            path = resources.files(self.package).joinpath(self.file)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{self.file}: package {self.package!r} is not installed; install convert-onnx[demo]"
            ) from error
        with path.open("rb") as stream, Image.open(stream) as image:
            return image.convert("RGB")


class Draw(Protocol):
    """Draws the first n crops of one half, uint8 [n, 224, 224, 3]."""

    def __call__(self, n: int = ..., seed: int = ...) -> npt.NDArray[np.uint8]: ...


CALIBRATION = (
    Photograph("skimage", "data/astronaut.png", weight=4),
    Photograph("skimage", "data/motorcycle_left.png", weight=2),
    Photograph("skimage", "data/motorcycle_right.png", weight=2),
    Photograph("skimage", "data/rocket.jpg", weight=4),
    Photograph("sklearn", "datasets/images/flower.jpg", weight=4),
    Photograph("skimage", "data/brick.png"),
    Photograph("skimage", "data/grass.png"),
    Photograph("skimage", "data/gravel.png"),
    Photograph("skimage", "data/hubble_deep_field.jpg"),
    Photograph("skimage", "data/ihc.png"),
    Photograph("skimage", "data/retina.jpg"),
)

EVALUATION = (
    Photograph("skimage", "data/chelsea.png", weight=4),
    Photograph("skimage", "data/coffee.png", weight=4),
    Photograph("sklearn", "datasets/images/china.jpg", weight=4),
    Photograph("skimage", "data/camera.png", weight=2),
    Photograph("skimage", "data/coins.png"),
)


def calibration_crops(n: int = 256, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return the first n calibration crops, uint8 [n, 224, 224, 3]. Fewer crops are a prefix of more crops."""
    return crops(CALIBRATION, n, np.random.default_rng([seed, 0]))


def evaluation_crops(n: int = 256, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return the first n evaluation crops, uint8 [n, 224, 224, 3]. Their photographs are never used to calibrate."""
    return crops(EVALUATION, n, np.random.default_rng([seed, 1]))


def crops(photographs: Sequence[Photograph], n: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw n random square crops, resized to 224 and mirrored half of the time. Photographs take turns by weight."""
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least one crop")
    images = [photograph.load() for photograph in photographs]
    order = turns(photographs, rng)
    return np.stack([crop(images[next(order)], rng) for _ in range(n)])  # [n, 224, 224, 3]


def turns(photographs: Sequence[Photograph], rng: np.random.Generator) -> Iterator[int]:
    """Yield indices of photographs without end. Each round has every index as often as its weight, in random order."""
    one_round = [index for index, photograph in enumerate(photographs) for _ in range(photograph.weight)]
    while True:
        yield from rng.permutation(one_round).tolist()


def crop(image: Image.Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw one square crop: side between 224 and the shorter edge, any position, resized to 224, mirrored or not."""
    side = int(rng.integers(SIZE, min(image.size), endpoint=True))
    left = int(rng.integers(0, image.width - side, endpoint=True))
    top = int(rng.integers(0, image.height - side, endpoint=True))
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))  # [224, 224, 3]
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


def main(arguments: Sequence[str] | None = None) -> int:
    """Write calibration.npz and evaluation.npz (key x) into a folder, and print their contents."""
    parser = argparse.ArgumentParser(prog="benchmarks.photographs", description="Write crops of real photographs.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--count", type=int, default=256, metavar="N", help="crops in each file (default 256)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed draws other crops")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count {options.count}: ask for at least one crop")
    options.out.mkdir(parents=True, exist_ok=True)
    halves: list[tuple[str, Sequence[Photograph], Draw]] = [
        ("calibration", CALIBRATION, calibration_crops),
        ("evaluation", EVALUATION, evaluation_crops),
    ]
    for name, photographs, draw in halves:
        path = options.out / f"{name}.npz"
        np.savez(path, x=draw(options.count, options.seed))
        print(f"{path}: {options.count} crops of {len(photographs)} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
