"""Channel pruning: whole channels taken out of a network, then 8 bits, against the plain 8-bit file.

    python -m benchmarks.channel_pruning                                      road signs, shares 0.35 and 0.55
    python -m benchmarks.channel_pruning --networks ResNet-56 --shares 0.2 0.3
    python -m benchmarks.channel_pruning --shares 0.5 --epochs 2             also trained for two epochs
    python -m benchmarks.channel_pruning --shares --max-drop 0.5             a search chooses the share
    python -m benchmarks.channel_pruning --choices FILE                      keeps the measured effects in FILE
    python -m benchmarks.channel_pruning --networks ResNet-20 --making-up 0.25    what making up for channels is worth

512 images calibrate. Effects of groups of channels and the time of layers are measured once, and every share is chosen
from them. Top-1 accuracy is measured on other images. All files are timed together, in turns, on one thread, and what
is compared is the ratio to the plain 8-bit file. Training sees 2,048 labelled images. A search
calibrates and judges on images of the evaluation set, which then measure nothing: on images that it was trained on, a
network says little of what it loses.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from rich import box
from rich.table import Table

from benchmarks.budgets import CACHE
from benchmarks.shared_data import RESNET20, RESNET56, ROAD_SIGNS, MissingData, Pretrained
from converter import Budget, ConvertError, Recipe, Result, Settings, convert, convert_within, find_recipe, train
from converter.channels.choice import ChannelChoices
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.pipeline.channel_shares import channel_step, measure_channels, replaced
from converter.pipeline.prepare import prepare
from converter.recipes.overrides import with_channels
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import Progress
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.channels.prune_channels import PruneChannels

__all__ = ["MAKING_UP", "NETWORKS", "Row", "main", "making_up", "measured", "table", "with_share"]

CALIBRATE, TRAIN, JUDGE = 512, 2048, 2048

NETWORKS: Mapping[str, tuple[Pretrained, float | None]] = MappingProxyType(
    # name: network, and the speed over the plain 8-bit file that is wanted within 0.5 points
    {"ResNet-18, road signs": (ROAD_SIGNS, 1.5), "ResNet-56": (RESNET56, None), "ResNet-20": (RESNET20, None)}
)
SHARES = (0.35, 0.55)
MAKING_UP: Mapping[str, PruneChannels] = MappingProxyType(
    {
        "channels just go": PruneChannels(make_up=False),
        "the others make up, on the float network's inputs": PruneChannels(sequential=False),
        "the same, then one layer after the other": PruneChannels(),
    }
)
_TRAINED_RECIPE = replace(
    find_recipe("int4-qat").with_solver(bits=8, block_size=None, two_level=False), name="int8-qat", storage="int8"
)


@dataclass(frozen=True)
class Row:
    """Results of one file.

    Attributes:
        network: Name of the network.
        method: What was done.
        top1: Top-1 accuracy in percent.
        lost: Points below float.
        error: Standard error of `top1` in points.
        images: Number of images that measured it.
        sqnr_db: SQNR of the scores in dB. None for float.
        bytes: Bytes of the file.
        smaller: Bytes of the plain 8-bit file over `bytes`.
        faster: Speed over the plain 8-bit file.
        seconds: Seconds of the conversion, without the measurement of effects.
    """

    network: str
    method: str
    top1: float
    lost: float
    error: float
    images: int
    sqnr_db: float | None
    bytes: int
    smaller: float
    faster: float
    seconds: float


def with_share(recipe: Recipe, choices: ChannelChoices, share: float) -> Recipe:
    """Return the recipe with the channels taken out that a share of the cost needs."""
    pruned = with_channels(recipe, share)
    step = channel_step(pruned)
    assert step is not None  # it was just added
    return replaced(pruned, step, choices.step(step, share))


def _choices(model: onnx.ModelProto, calibration: Dataset, kept: Path | None, progress: Progress) -> ChannelChoices:
    """Measure effects and times, or read them from a file."""
    if kept is not None and kept.exists():
        return ChannelChoices.from_json(kept.read_text(encoding="utf-8"))
    recipe = with_channels(find_recipe("int8"), 0.5)
    step = channel_step(recipe)
    assert step is not None  # it was just added
    job = prepare(model, calibration, recipe, find_target(DEFAULT_TARGET), settings=Settings(limit=len(calibration)))
    choices = measure_channels(job, step, progress)
    if kept is not None:
        kept.write_text(choices.to_json() + "\n", encoding="utf-8")
    return choices


def measured(
    network: str,
    shares: Sequence[float],
    epochs: int,
    images: int | None,
    kept: Path | None,
    progress: Progress,
    calibrate: int = CALIBRATE,
    drop: float | None = None,
) -> list[Row]:
    """Convert a network with every share and measure the files. The float model comes first, then the 8-bit file.

    Args:
        network: Name of the network.
        shares: Shares of the time that go.
        epochs: Epochs of training. 0: none is trained.
        images: Number of images that measure. None: all.
        kept: File for measured effects and times. None: they are not kept.
        progress: Called during the work.
        calibrate: Number of images that calibrate.
        drop: Most points that a search may lose that chooses the share itself. None: no search.

    Raises:
        MissingData: The network or its images are not on this machine.
    """
    pretrained, _ = NETWORKS[network]
    model, calibration, evaluation = _opened(network, calibrate, images)
    settings = Settings(limit=calibrate)
    common: dict[str, Any] = {"settings": settings, "progress": progress}
    makers: dict[str, Callable[[], Result]] = {"8 bits": partial(convert, model, calibration, **common)}
    choices = _choices(model, calibration, kept, progress) if shares else None
    for share in shares:
        assert choices is not None  # they were measured for the shares
        recipe = with_share(find_recipe("int8"), choices, share)
        makers[f"channels for {share:.0%} of the time, 8 bits"] = partial(
            convert, model, calibration, recipe=recipe, **common
        )
        if epochs:
            recipe, training = with_share(_TRAINED_RECIPE, choices, share), pretrained.images(model, TRAIN)[0]
            qat = {"epochs": epochs, "shift": 3}
            makers[f"the same, {epochs} epochs of training, {share:.0%}"] = partial(
                train, model, training, recipe=recipe, qat=qat, calibration=calibration, **common
            )
    if drop is not None:
        shown, evaluation = evaluation.split(JUDGE + calibrate)
        makers[f"--max-drop {drop:g} --prune-channels auto, 8 bits"] = partial(
            convert_within,
            model,
            shown,
            Budget(max_drop=drop),
            recipe="int8",
            cache=CACHE,
            settings=replace(settings, prune_channels="auto"),
            progress=progress,
        )
    return _rows(network, model, makers, evaluation, progress)


def making_up(
    network: str, share: float, images: int | None, progress: Progress, calibrate: int = CALIBRATE
) -> list[Row]:
    """Remove the same share of every group, and make up for it in none, one and two ways.

    Raises:
        MissingData: The network or its images are not on this machine.
    """
    model, calibration, evaluation = _opened(network, calibrate, images)
    common: dict[str, Any] = {"settings": Settings(limit=calibrate), "progress": progress}
    makers: dict[str, Callable[[], Result]] = {"8 bits": partial(convert, model, calibration, **common)}
    for name, chosen in MAKING_UP.items():
        pruned = with_channels(find_recipe("int8"), share)
        step = channel_step(pruned)
        assert step is not None  # it was just added
        recipe = replaced(pruned, step, replace(chosen, share=share))
        makers[name] = partial(convert, model, calibration, recipe=recipe, **common)
    return _rows(network, model, makers, evaluation, progress)


def _opened(network: str, calibrate: int, images: int | None) -> tuple[onnx.ModelProto, Dataset, Dataset]:
    """Return a network, its images that calibrate, and at most ``images`` that measure."""
    pretrained, _ = NETWORKS[network]
    model = pretrained.model()
    calibration, evaluation = pretrained.images(model, calibrate)
    return model, calibration, evaluation if images is None else evaluation.limit(images)


def _rows(
    network: str,
    model: onnx.ModelProto,
    makers: Mapping[str, Callable[[], Result]],
    evaluation: Dataset,
    progress: Progress,
) -> list[Row]:
    """Make the files and measure them. The float model comes first, then the plain 8-bit file."""
    names, seconds = ["float"], [0.0]
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        for name, make in makers.items():
            result = make()
            paths.append(Path(folder) / f"{len(paths)}.onnx")
            result.save(paths[-1])
            names.append(name)
            seconds.append(result.seconds)
        models = evaluate(paths, evaluation, progress=progress).models
    base, plain = 100 * (models[0].top1 or 0.0), models[1]
    return [
        Row(
            network,
            name,
            100 * (each.top1 or 0.0),
            base - 100 * (each.top1 or 0.0),
            100 * (each.top1_error or 0.0),
            each.images,
            None if name == "float" else each.sqnr_db,
            each.bytes,
            plain.bytes / each.bytes,
            (plain.latency_ms or 0.0) / (each.latency_ms or 1.0),
            took,
        )
        for name, each, took in zip(names, models, seconds, strict=True)
    ]


def table(rows: Sequence[Row]) -> Table:
    """Build a table with one row for each file of a network."""
    built = Table(title=rows[0].network, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title_justify="left")
    for column in ("file", "top-1", "lost", "SQNR", "size", "against 8 bits", "speed against 8 bits"):
        built.add_column(column, justify="left" if column == "file" else "right")
    for row in rows:
        built.add_row(
            row.method,
            f"{row.top1:.2f} %",
            "" if row.sqnr_db is None else f"{row.lost:.2f}",
            "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
            f"{row.bytes / 1e6:.3f} MB",
            f"{row.smaller:.2f}x smaller",
            f"{row.faster:.2f}x",
        )
    built.caption = f"{rows[0].images:,} images, binomial error ±{rows[0].error:.2f} points"
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each network. The result is 1 if a bar is missed or data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.channel_pruning", description="Channel pruning, measured.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["ResNet-18, road signs"], metavar="NAME")
    parser.add_argument("--shares", nargs="*", type=float, default=list(SHARES), metavar="SHARE")
    parser.add_argument("--epochs", type=int, default=0, metavar="N", help="also train for so many epochs")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="also search the share that loses so much")
    parser.add_argument("--images", type=int, metavar="N", help="images that measure; default all")
    parser.add_argument("--calibrate", type=int, default=CALIBRATE, metavar="N", help="images; default 512")
    parser.add_argument("--choices", type=Path, metavar="FILE", help="keep measured effects here, for one network")
    parser.add_argument("--making-up", type=float, metavar="SHARE", help="instead: the same share of every group")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for network in options.networks:
        try:
            with progress_bars() as progress:
                if options.making_up is not None:
                    found = making_up(network, options.making_up, options.images, progress, options.calibrate)
                else:
                    found = measured(
                        network,
                        options.shares,
                        options.epochs,
                        options.images,
                        options.choices,
                        progress,
                        options.calibrate,
                        options.max_drop,
                    )
        except (ConvertError, MissingData) as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        show([table(found)])
        rows += found
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    bars = options.making_up is None
    return 0 if not bars or all(_holds(rows, network) for network in options.networks) else 1


def _holds(rows: Sequence[Row], network: str) -> bool:
    """Return whether some file is as much faster and smaller as is wanted, within 0.5 points of float."""
    wanted = NETWORKS[network][1]
    return wanted is None or any(
        row.faster >= wanted and row.smaller >= wanted and row.lost <= 0.5 + 1e-9
        for row in rows
        if row.network == network and row.method not in {"float", "8 bits"}
    )


if __name__ == "__main__":
    sys.exit(main())
