"""Settings of a conversion: images, seed, device, memory, metric and checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from converter.data.embedding import Embed
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from passes.arguments import require_number, require_type, whole
from passes.base import Device
from passes.errors import UsageError

__all__ = ["Settings"]

_EXACT_DB = 80  # float arithmetic itself, in another order, differs by not much less
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """Settings of a conversion. If a field is None, the recipe decides.

    Attributes:
        limit: Largest number of images that calibrate. Overrides the recipe's. Up to 8 others judge the file: those
            beyond the limit, and at least one in 16 of 64 or more.
        seed: Random seed. Overrides the recipe's.
        device: Device on which passes learn. It is refused if no pass learns.
        measure_speed: Whether activations stay in float where this machine runs the file faster that way. The recipe in
            the result names these layers. It gives the same file without a measurement.
        prune_channels: Share of the file's time on this machine that goes with whole channels, above 0 and below 1.
            Where the target's kernels are not this machine's, and with `deterministic`, it is the share of the
            products. The result's recipe names the groups of channels. It gives the same file without a measurement.
            "auto": a budget chooses the share. None: all channels stay.
        memory_budget: Bytes of activations in memory. Half is for the samples that run together: there are as many as
            fit, and at least one. Half is for tensors that a later layer reads. Beyond it, they go to files.
        metric: Metric that evaluation data are measured by, that a budget's drop is of, and that chooses the best epoch
            of a training. See `converter.evaluate`.
        min_sqnr: SQNR in dB that every output needs against float, on the few samples that judge. What costs most stays
            in float, or gets 8 bits, until the file reaches it.
        deterministic: Whether the file has the same bytes whatever the number of processor cores. Meanwhile numpy,
            scipy and torch compute on one thread in the whole process.
        timing: Whether the float model and the file are timed for a few seconds when the file is made, for the verdict.
            Nothing else depends on it. Models above 512 MB, or of more than a second for a run, are not timed. With
            evaluation data, both are timed anyway.
        embed_preprocess: Image that the file takes, if its preprocessing goes inside: "nhwc", "nchw", "nhwc-bgr" or
            "nchw-bgr", uint8. None: the file takes floats, and the preprocessing stays outside.
        embed_resize: Whether the file takes images of any size: resizing (with the crop) or letterbox is inside, too.
        class_index: Whether the file gives the number of the best class, int64 [n], in place of its scores.
        float16: Whether what stays in float is float16 in the file, on targets with kernels for it. Others store it so,
            and compute in float32. Inputs and outputs keep their types.
        checkpoint: File for the state of a training. After an interruption, the same call continues from it.

        cache: Folder for statistics, the choice of ranges, solved layers and learned blocks. After an interruption, the
            same call continues from it, and another recipe for the same model and samples uses what is the same. See
            `converter.cache.steps`. A search has its own argument ``cache``, which it uses for its attempts too.

    Raises:
        UsageError: A value is not usable.
    """

    limit: int | None = None
    seed: int | None = None
    device: Device | None = None
    measure_speed: bool = False
    prune_channels: float | Literal["auto"] | None = None
    memory_budget: int = DEFAULT_MEMORY_BUDGET
    metric: Any = None
    min_sqnr: float | None = None
    deterministic: bool = False
    timing: bool = False
    embed_preprocess: str | None = None
    embed_resize: bool = False
    class_index: bool = False
    float16: bool = False
    checkpoint: str | Path | None = None
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "seed", "memory_budget"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.embed_preprocess is not None:
            require_type("embed_preprocess", self.embed_preprocess, str, "'nhwc'")
            Embed.of(self.embed_preprocess)
        if self.min_sqnr is not None:
            require_number("min_sqnr", self.min_sqnr)
            if not 0 < self.min_sqnr <= _EXACT_DB:
                raise UsageError(f"`min_sqnr={self.min_sqnr:g}` is not above 0 and at most {_EXACT_DB} dB; try 20")
        share = self.prune_channels
        if share is not None and share != "auto":
            require_number("prune_channels", share)
            if not 0 < share < 1:
                raise UsageError(f"`prune_channels={share:g}` is no share above 0 and below 1; try 0.3")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"`limit={self.limit}` leaves no samples; use at least 1")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"`seed={self.seed}` is negative; use 0 or more")
        if self.device is not None and self.device not in _DEVICES:
            raise UsageError(f"`device={self.device!r}` is none of {', '.join(_DEVICES)}")
        if self.memory_budget < 1:
            raise UsageError(f"`memory_budget={self.memory_budget}` leaves no memory; give bytes, at least 1")

    @property
    def channel_share(self) -> float | None:
        """The share of `prune_channels`, of a conversion without a budget.

        Raises:
            UsageError: A budget should choose it.
        """
        if self.prune_channels == "auto":
            raise UsageError(
                "`prune_channels='auto'` lets a budget choose the share; give `max_drop=`, or a share such as 0.3"
            )
        return self.prune_channels
