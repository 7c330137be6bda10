"""What `--deterministic` costs: the share of a conversion that is in sums of BLAS, and times with and without it.

    python -m benchmarks.fixed_sums                               ResNet-20, int4, 128 samples
    python -m benchmarks.fixed_sums --network resnet18 --samples 64 --pairs 0

The share is of the processor time of the main thread, on one thread of BLAS, by samples of the line that runs. On c
idle cores, one thread needs at most 1 / (1 - share (1 - 1/c)) times as long as c threads do. The pairs are conversions
with and without `deterministic`, in turns.
"""

import argparse
import collections
import linecache
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType, MappingProxyType

import numpy as np
from numpy.typing import NDArray

from converter import ExportOptions, Settings, convert, export

__all__ = ["bound", "main"]

_NETWORKS = MappingProxyType({"resnet20": ("cifar_resnet", 32), "resnet18": ("resnet", 224)})
_CALLS = ("blas.", "lapack.", " @ ")
"""What a line has that calls BLAS."""

_OTHER = "np.diff("
"""What a line has that calls BLAS too, and takes its time elsewhere."""


def bound(share: float, cores: int) -> float:
    """Return how many times as long one thread takes as so many threads, at most.

    >>> round(bound(0.23, 2), 2)
    1.13
    """
    return 1 / (1 - share * (1 - 1 / cores))


def _share(work: Callable[[], object]) -> float:
    """Return the share of the main thread's processor time in lines that call BLAS."""
    seconds: collections.defaultdict[tuple[str, int], float] = collections.defaultdict(float)
    last = time.thread_time()

    def sample(_number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.thread_time()
        seconds[("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno or 0)] += now - last
        last = now

    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    lines = {place: linecache.getline(*place) for place in seconds}
    sums = [place for place, line in lines.items() if any(call in line for call in _CALLS) and _OTHER not in line]
    return sum(seconds[place] for place in sums) / sum(seconds.values())


def _smooth_images(count: int, side: int) -> NDArray[np.float32]:
    """Make images whose neighbouring pixels are alike."""
    images = np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)
    for axis in (2, 2, 3, 3):
        images += np.roll(images, 1, axis)
    return images


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.fixed_sums", description="What `--deterministic` costs.")
    parser.add_argument("--network", choices=tuple(_NETWORKS), default="resnet20")
    parser.add_argument("--recipe", default="int4", metavar="NAME")
    parser.add_argument("--samples", type=int, default=128, metavar="N")
    parser.add_argument("--pairs", type=int, default=3, metavar="N")
    options = parser.parse_args(arguments)
    file, side = _NETWORKS[options.network]
    model = export(f"models/{file}.py:{options.network}", export=ExportOptions(input_shape=(1, 3, side, side))).model
    images = _smooth_images(options.samples, side)

    def work(*, deterministic: bool) -> float:
        start = time.monotonic()
        settings = Settings(limit=options.samples, deterministic=deterministic)
        convert(model, images, recipe=options.recipe, settings=settings)
        return time.monotonic() - start

    share = _share(lambda: work(deterministic=True))
    print(f"{share:.0%} of the time is in sums of BLAS: at most {bound(share, 2):.2f} times as long on two idle cores")
    for _ in range(options.pairs):
        one, several = work(deterministic=True), work(deterministic=False)
        print(f"deterministic {one:.1f} s, otherwise {several:.1f} s: {one / several:.2f} times as long", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
