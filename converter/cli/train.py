"""The command `train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import converter
from converter.cli import options
from converter.cli.context import given_preprocess, keeping, warn
from passes.errors import UsageError

if TYPE_CHECKING:
    from passes.base import Device

__all__ = ["train"]


@click.command()
@click.argument("model")
@options.output
@click.option(
    "--data", required=True, metavar="DATA", help="Training data: .npz, folder of images or FILE.py:CALLABLE."
)
@click.option(
    "--recipe", default="int4-qat", show_default=True, metavar="NAME|FILE.toml", help="Recipe with a qat pass."
)
@options.target
@options.layers
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Passes over the training data; by default 10.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per step; by default 32.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Learning rate, in steps of the weights' grid; by default 0.0003.",
)
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), help="By default sgd.")
@click.option(
    "--objective",
    type=click.Choice(["auto", "labels", "float"]),
    help="Learn from labels or from the float model; auto: labels if there are any.",
)
@click.option("--flip/--no-flip", default=None, help="Mirror images at random.")
@click.option("--shift", type=click.IntRange(min=0), metavar="N", help="Move images by up to N pixels at random.")
@click.option("--calibration", metavar="DATA", help="Calibration data; by default the training data.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Number of calibration samples; by default 512.")
@click.option("--evaluate", "evaluation", metavar="DATA", help="Measure before and after on these data.")
@options.metric
@click.option(
    "--checkpoint",
    type=options.FILE,
    metavar="FILE",
    help="File for the state after every epoch, from which the same command continues; by default OUT.checkpoint, "
    "which is removed when OUT is written.",
)
@options.torch
@options.images
@options.custom_ops
@options.report
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Random seed; by default the recipe's, 0.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Device of the training; auto: cuda if there is one."
)
@options.prune_channels
@options.deterministic
@options.timing
@options.verbose
@options.quiet
def train(
    model: str,
    output: Path,
    data: str,
    recipe: str,
    target: str,
    exclude: tuple[str, ...],
    bits: tuple[tuple[str, int], ...],
    calibration: str | None,
    limit: int | None,
    evaluation: str | None,
    metric: str | None,
    checkpoint: Path | None,
    export: "converter.ExportOptions",
    report: tuple[Path, ...],
    seed: int | None,
    device: "Device | None",
    prune_channels: "float | Literal['auto'] | None",
    deterministic: bool,
    timing: bool,
    verbose: bool,
    quiet: bool,
    **rest: Any,
) -> None:
    """Quantize a model and train it with its quantization in place.

    MODEL is an .onnx file, FILE.py:FACTORY or FILE.py:FACTORY(name=value). The training starts from the recipe's
    post-training solution. The epoch that is best on held-out training images is kept, or the start if no epoch is
    better.
    """
    from converter.cli.finish import finish
    from converter.cli.outputs import check_outputs, same_file
    from converter.model_io.lock import owned
    from converter.report.files import check_report
    from converter.report.progress import progress_bars

    state_file = output.with_suffix(".checkpoint") if checkpoint is None else checkpoint
    for path in report:
        check_report(path)
    inputs = (("MODEL", model), ("--data", data), ("--calibration", calibration), ("--evaluate", evaluation))
    outputs = [("-o", output), ("--checkpoint", state_file), *(("--report", path) for path in report)]
    check_outputs(outputs, [*inputs, ("--weights", export.weights), ("--recipe", recipe)])
    if calibration is not None and same_file(calibration, data):
        raise UsageError(
            f"--calibration {calibration} is the same as --data, whose samples calibrate anyway; leave it out"
        )
    for read in (data, calibration):
        if evaluation is not None and read is not None and same_file(evaluation, read):
            warn(f"{evaluation} is used to train and to evaluate: the accuracy is not that on unseen samples")
    settings = converter.Settings(
        limit=limit,
        seed=seed,
        device=device,
        metric=metric,
        prune_channels=prune_channels,
        deterministic=deterministic,
        timing=timing,
        checkpoint=state_file,
    )
    names = ("epochs", "batch", "rate", "optimizer", "objective", "flip", "shift")
    qat = {name: value for name in names if (value := rest.pop(name)) is not None}
    with owned(output):
        with keeping(state_file), progress_bars(quiet=quiet) as progress:
            result = converter.train(
                model,
                data,
                recipe=recipe,
                qat=qat,
                calibration=calibration,
                target=target,
                exclude=exclude,
                bits=dict(bits),
                evaluation=evaluation,
                export=export,
                preprocess=given_preprocess(**rest),
                settings=settings,
                progress=progress,
            )
        finish(result, model, output, report, quiet=quiet, verbose=verbose)
        if checkpoint is None:
            state_file.unlink(missing_ok=True)
