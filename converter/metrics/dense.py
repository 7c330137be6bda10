"""Metrics of maps: mean IoU of segmentation, PSNR and SSIM of images, AbsRel of depth."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from converter.metrics.classes import select
from converter.metrics.metric import Labels, Metric, Outputs, SampleMean
from passes.errors import DataError

__all__ = ["AbsRel", "MeanIou", "Psnr", "Ssim"]


class MeanIou(Metric):
    """Mean intersection over union of the classes that occur, in percent.

    The output is [n, classes, h, w], [n, 1, h, w] (one class: scores of ``threshold`` and more), or class numbers
    [n, h, w]. Labels ``y`` are class numbers [n, h, w].

    Args:
        output: Name of the output. None: the first one.
        ignore: Label of pixels that do not count.
        threshold: Least score, if the output has one class.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, 2010, section 4.3.
    """

    name: ClassVar[str] = "miou"
    unit: ClassVar[str] = "%"

    def __init__(self, output: str | None = None, ignore: int = 255, threshold: float = 0.5) -> None:
        self._output, self._ignore, self._threshold = output, ignore, threshold
        self._both: dict[int, int] = {}
        self._either: dict[int, int] = {}
        self._labelled: set[int] = set()

    def update(self, outputs: Outputs, labels: Labels) -> None:
        found, right = self._classes(outputs), np.asarray(labels["y"])
        if right.size != found.size:
            raise DataError(
                f"metric miou: labels y are {list(right.shape)}, and the output has classes {list(found.shape)}; "
                "resize the masks to the output by the nearest pixel, with one class number for each pixel"
            )
        right = right.reshape(found.shape)
        counted = right != self._ignore
        self._labelled.update(np.unique(right).tolist())
        for each in np.union1d(np.unique(found[counted]), np.unique(right[counted])).tolist():
            ours, theirs = (found == each) & counted, (right == each) & counted
            self._both[each] = self._both.get(each, 0) + int((ours & theirs).sum())
            self._either[each] = self._either.get(each, 0) + int((ours | theirs).sum())

    def value(self) -> float:
        if not self._either:
            raise DataError("metric miou: no pixel has a label; give labels [n, h, w] as array y")
        if self._labelled == {0, self._ignore}:
            raise DataError(
                f"metric miou: labels y are 0 and {self._ignore} only, and {self._ignore} does not count, so there is "
                "no object; give class numbers, 0 for the background and 1 for the object: y // 255 of masks of 0 and "
                "255"
            )
        return 100.0 * float(np.mean([self._both[each] / self._either[each] for each in self._either]))

    def truth(self, outputs: Outputs) -> Labels:
        """Return the class of each pixel."""
        return {"y": self._classes(outputs)}

    def _classes(self, outputs: Outputs) -> NDArray[np.int64]:
        values = select(outputs, self._output)
        if values.ndim == 4 and values.shape[1] > 1:
            return np.asarray(values.argmax(axis=1))
        flat = values[:, 0] if values.ndim == 4 else values
        return np.asarray(flat if flat.dtype.kind in "iu" else flat >= self._threshold, np.int64)


class _Image(SampleMean):
    """A metric of two images of equal shape."""

    def __init__(self, output: str | None = None, peak: float = 1.0) -> None:
        super().__init__()
        self._output, self._peak = output, peak

    def _pairs(self, outputs: Outputs, labels: Labels) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        values = select(outputs, self._output).astype(np.float64)
        right = np.asarray(labels["y"], np.float64)
        if values.shape != right.shape:
            raise DataError(
                f"metric {self.name}: labels y are {list(right.shape)}, the output is {list(values.shape)}; "
                "give labels of the same shape"
            )
        return list(zip(values, right, strict=True))

    def truth(self, outputs: Outputs) -> Labels:
        """Return the output itself."""
        return {"y": select(outputs, self._output)}


class Psnr(_Image):
    """Mean peak signal-to-noise ratio of images, 10 log10(peak^2 / mse), in dB. An equal image counts as 100 dB.

    Args:
        output: Name of the output. None: the first one.
        peak: Largest value of a pixel.
    """

    name: ClassVar[str] = "psnr"
    unit: ClassVar[str] = "dB"

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        errors = [float(np.mean((found - right) ** 2)) for found, right in self._pairs(outputs, labels)]
        return np.array([min(100.0, 10 * np.log10(self._peak**2 / error)) if error else 100.0 for error in errors])


class Ssim(_Image):
    """Mean structural similarity of images, by scikit-image, from -1 to 1. Images are [n, c, h, w] or [n, h, w].

    Args:
        output: Name of the output. None: the first one.
        peak: Largest value of a pixel.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.
    """

    name: ClassVar[str] = "ssim"

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        from skimage.metrics import structural_similarity  # an extra

        return np.array(
            [
                structural_similarity(  # type: ignore[no-untyped-call]
                    right, found, data_range=self._peak, channel_axis=0 if right.ndim == 3 else None
                )
                for found, right in self._pairs(outputs, labels)
            ]
        )


class AbsRel(_Image):
    """Mean relative error of depth, mean(|d - d*| / d*) over pixels with d* > 0, in percent.

    Args:
        output: Name of the output. None: the first one.

    Source: Eigen et al., Depth Map Prediction from a Single Image, 2014, section 3.
    """

    name: ClassVar[str] = "absrel"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = False

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        errors = []
        for found, right in self._pairs(outputs, labels):
            known = right > 0
            errors.append(
                100.0 * float(np.mean(np.abs(found[known] - right[known]) / right[known])) if known.any() else 0.0
            )
        return np.array(errors)
