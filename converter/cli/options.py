"""Options that several commands share."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "FILE",
    "budget",
    "custom_ops",
    "data",
    "deterministic",
    "embedding",
    "images",
    "json",
    "layers",
    "limit",
    "metric",
    "output",
    "prune_channels",
    "quiet",
    "report",
    "target",
    "timing",
    "torch",
    "verbose",
    "workers",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def _share(text: str) -> "float | str":
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a share such as 0.3 nor auto") from error


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 0.5,0.5,0.5") from error


def _shape(text: str) -> tuple[str, "tuple[int, ...] | str"]:
    """Read the sizes of the only input, or NAME=SIZES[:TYPE]. The name of the only input is empty."""
    name, equals, sizes = text.partition("=")
    if not equals:
        return "", _sizes(text, "1,3,224,224")
    _sizes(sizes.partition(":")[0], f"{name}=1,3,224,224 or {name}=1,16:int64")
    return name, sizes


def _shapes(
    _context: click.Context, _parameter: click.Parameter, given: tuple[tuple[str, Any], ...]
) -> "Sequence[int] | dict[str, Any] | None":
    """Return the shape of the only input, or the shapes of several ones by name."""
    names = [name for name, _ in given]
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise click.UsageError("--input-shape: give SIZES of the only input once, or NAME=SIZES once for each input")
    if not given:
        return None
    return given[0][1] if names == [""] else dict(given)


def _sizes(text: str, example: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of sizes such as {example}") from error
    if min(sizes) < 1:
        raise click.BadParameter(f"{text!r} has a size below 1; write sizes such as {example}")
    return sizes


def _pixels(text: str) -> int | tuple[int, ...]:
    sizes = _sizes(text, "224 or 320,640")
    if len(sizes) > 2:
        raise click.BadParameter(f"{text!r} is not one size or two, such as 224 or 320,640")
    return sizes if len(sizes) == 2 else sizes[0]


def _number(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    return None if value is None else int(value)


def _bits(text: str) -> tuple[str, int]:
    name, _, bits = text.rpartition("=")
    if not name or not bits.isdecimal() or not 2 <= int(bits) <= 8:
        raise click.BadParameter(f"{text!r} is not a layer and its bits, 2 to 8, such as conv1=8")
    return name, int(bits)


def _each_once(
    _context: click.Context, _parameter: click.Parameter, given: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, int], ...]:
    """Refuse two numbers of bits for one name, of which the second would win without a word."""
    bits: dict[str, int] = {}
    for name, number in given:
        if bits.setdefault(name, number) != number:
            raise click.UsageError(f"--bits {name}={bits[name]} and --bits {name}={number} contradict; give one")
    return given


def _default_target() -> str:
    from converter.targets.catalog import DEFAULT_TARGET

    return DEFAULT_TARGET


def _several(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return several options as one decorator, in the order in which --help shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(decorators):
            command = option(command)
        return command

    return decorate


def custom_ops(command: Command) -> Command:
    """Add the libraries of operators. onnxruntime knows them while the command runs."""

    @functools.wraps(command)
    def run(*arguments: Any, custom_ops: tuple[Path, ...], **others: Any) -> Any:
        if not custom_ops:
            return command(*arguments, **others)
        from converter.model_io.operator_libraries import custom_ops as known

        with known(*custom_ops):
            return command(*arguments, **others)

    return _libraries(run)  # type: ignore[return-value]


def budget(command: Command) -> Command:
    """Add the limits of a budget and the cache folder. The command gets the limits as one `Budget` or None."""

    @functools.wraps(command)
    def run(
        *arguments: Any, max_drop: float | None, max_bytes: int | None, max_latency: float | None, **others: Any
    ) -> Any:
        limits = (max_drop, max_bytes, max_latency)
        if limits == (None, None, None):
            return command(*arguments, budget=None, **others)
        from converter.budget.limits import Budget

        return command(*arguments, budget=Budget(*limits), **others)

    return _limits(run)  # type: ignore[return-value]


def torch(command: Command) -> Command:
    """Add the options on the export of a torch model. The command gets them as one `ExportOptions`."""

    @functools.wraps(command)
    def run(*arguments: Any, weights: Path | None, input_shape: Any, tolerance: float | None, **others: Any) -> Any:
        from converter.model_io.open import ExportOptions

        return command(*arguments, export=ExportOptions(weights, input_shape, tolerance), **others)

    return _torch(run)  # type: ignore[return-value]


def workers(command: Command) -> Command:
    """Add the options on processes that share the work. The command gets them as one `Workers`."""

    @functools.wraps(command)
    def run(
        *arguments: Any,
        workers: int,
        scheduler: str | None,
        storage: str | None,
        worker_memory: int | None,
        **others: Any,
    ) -> Any:
        from converter.engine.workers import Workers

        return command(*arguments, workers=Workers(workers, scheduler, storage, worker_memory), **others)

    return _workers(run)  # type: ignore[return-value]


FILE = click.Path(path_type=Path)
output = click.option("-o", "--output", type=FILE, required=True, metavar="OUT.onnx", help="File to write.")
target = click.option(
    "--target", default=_default_target, metavar="NAME", help="Where the file will run, see `targets`; by default cpu."
)
_torch = _several(
    click.option("--weights", type=FILE, metavar="FILE", help="Weights of FILE.py:FACTORY: .safetensors, .npz or .pt."),
    click.option(
        "--input-shape",
        type=_shape,
        callback=_shapes,
        multiple=True,
        metavar="1,3,224,224",
        help="Input of FILE.py:FACTORY, with the batch; NAME=SIZES, or NAME=SIZES:int64, for each of several.",
    ),
    click.option(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="Largest difference from torch, of the largest output; by default 1e-4, more for sensitive modules.",
    ),
)
images = _several(
    click.option("--mean", type=_floats, metavar="a,b,c", help="Subtract this from uint8 images, on the 0..1 scale."),
    click.option("--std", type=_floats, metavar="a,b,c", help="Divide images by this, on the 0..1 scale."),
    click.option(
        "--resize", type=_pixels, metavar="N|H,W", help="Resize images to N pixels on their shorter side, or to H x W."
    ),
    click.option("--crop", type=click.IntRange(min=1), metavar="N", help="Crop images to their N x N centre."),
    click.option(
        "--letterbox", type=click.IntRange(min=1), metavar="N", help="Fit images into N x N pixels and pad the rest."
    ),
    click.option("--pad", type=click.IntRange(0, 255), metavar="VALUE", help="Value of padded pixels; 114 by default."),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Order of the colours; rgb by default."),
    click.option(
        "--scale",
        type=click.Choice(["1", "255"]),
        callback=_number,
        help="Largest value of a pixel before mean and std; 1 by default.",
    ),
    click.option(
        "--interpolation",
        type=click.Choice(["bilinear", "nearest", "bicubic", "lanczos", "box"]),
        help="Filter of the resizing; bilinear by default.",
    ),
)
embedding = _several(
    click.option(
        "--embed-preprocess",
        type=click.Choice(["nhwc", "nchw", "nhwc-bgr", "nchw-bgr"]),
        help="Put mean, std and layout into the file, which then takes a uint8 image of this form; nhwc is RGB "
        "[n, h, w, 3].",
    ),
    click.option(
        "--embed-resize",
        is_flag=True,
        help="Put resizing (with the crop) or letterbox into the file too, which then takes images of any size.",
    ),
    click.option(
        "--class-index", is_flag=True, help="Give the number of the best class, int64 [n], in place of the scores."
    ),
)
metric = click.option(
    "--metric",
    metavar="METRIC",
    help="Measure by this too: top1, top5, f1, map, miou, psnr, ssim, absrel, oks, cer, wer, cosine, sqnr or "
    "FILE.py:CALLABLE.",
)
report = click.option(
    "--report", type=FILE, multiple=True, metavar="FILE", help="Also write a .json or .html report; may be repeated."
)
layers = _several(
    click.option(
        "--exclude",
        multiple=True,
        metavar="LAYER",
        help="Leave layers in float: a name, a*b, re:, op:, after: or from:..to:; may be repeated.",
    ),
    click.option(
        "--bits",
        type=_bits,
        multiple=True,
        callback=_each_once,
        metavar="LAYER=N",
        help="Weight bits of layers, 2 to 8; LAYER as for --exclude; may be repeated.",
    ),
)
_limits = _several(
    click.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="Largest loss of accuracy; without labels, of agreement with float.",
    ),
    click.option("--max-bytes", type=int, metavar="N", help="Largest file."),
    click.option("--max-latency", type=float, metavar="MS", help="Longest time per sample on this CPU, one thread."),
    click.option(
        "--cache",
        type=FILE,
        metavar="DIR",
        help="Folder for what is measured and solved, from which the same command continues, and others for the same "
        "model and data; by default OUT.work, or OUT.search of a search, which is removed at the end.",
    ),
)
_workers = _several(
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Local processes; needs dask for 2 or more.",
    ),
    click.option(
        "--scheduler", metavar="tcp://HOST:PORT", help="Dask scheduler whose workers do the work; needs --storage."
    ),
    click.option(
        "--storage",
        metavar="DIR|URL",
        help="Folder or fsspec address that all workers of the scheduler can read and write.",
    ),
    click.option(
        "--worker-memory", type=click.IntRange(min=1), metavar="BYTES", help="Most memory of each local process."
    ),
)
_libraries = click.option(
    "--custom-ops",
    type=FILE,
    multiple=True,
    metavar="LIB.so",
    help="Library with operators that onnxruntime lacks; may be repeated.",
)
prune_channels = click.option(
    "--prune-channels",
    type=_share,
    metavar="SHARE|auto",
    help="Take whole channels out of the network, and with them this share of its time; auto: as the budget allows.",
)
limit = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Number of samples; by default all.")
data = click.option("--data", required=True, metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE.")
deterministic = click.option(
    "--deterministic", is_flag=True, help="Write the same bytes whatever the number of processor cores."
)
timing = click.option(
    "--no-timing",
    "timing",
    is_flag=True,
    default=True,
    flag_value=False,
    help="Without --evaluate, do not time the float model and the file, which takes a few seconds.",
)
verbose = click.option(
    "--verbose", is_flag=True, help="Show layers of different block sizes and storage in rows of their own."
)
quiet = click.option("--quiet", is_flag=True, help="Print no progress bars, and only the tables that were requested.")
json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
