"""The command `sensitivity`."""

from pathlib import Path
from typing import Any

import click

import converter
from converter.cli import options
from converter.cli.context import given_preprocess, print_json
from converter.cli.lines import say

__all__ = ["sensitivity"]


@click.command()
@click.argument("model")
@options.data
@click.option(
    "--recipe", default="int8", metavar="NAME|FILE", help="Recipe that rounds, see `recipes`; by default int8."
)
@options.target
@options.layers
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of calibration samples; by default the recipe's, 512.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=8, metavar="N", help="Other samples that judge; by default 8."
)
@click.option("--plot", type=options.FILE, metavar="FILE", help="Also draw the largest shares: a .png or .svg file.")
@click.option("--cache", type=options.FILE, metavar="DIR", help="Folder for the result, which a later call reads.")
@options.workers
@options.json
@options.torch
@options.images
@options.custom_ops
@options.quiet
def sensitivity(
    model: str,
    data: str,
    recipe: str,
    target: str,
    exclude: tuple[str, ...],
    bits: tuple[tuple[str, int], ...],
    limit: int | None,
    samples: int,
    plot: Path | None,
    cache: Path | None,
    workers: "converter.Workers",
    as_json: bool,
    export: "converter.ExportOptions",
    quiet: bool,
    **images: Any,
) -> None:
    """Rank weights and activations by what rounding them costs.

    The recipe is applied to MODEL, an .onnx file or FILE.py:FACTORY. Then every weight and every activation is rounded
    alone, and all outputs are compared with those of the float model. No file is written.
    """
    from converter.report.progress import progress_bars
    from converter.report.sensitivity import check_plot, sensitivity_table, write_plot
    from converter.report.table import show

    if plot is not None:
        check_plot(plot)
    with progress_bars(quiet=quiet) as progress:
        found = converter.sensitivity(
            model,
            data,
            recipe=recipe,
            target=target,
            exclude=exclude,
            bits=dict(bits),
            samples=samples,
            cache=cache,
            export=export,
            preprocess=given_preprocess(**images),
            settings=converter.Settings(limit=limit),
            workers=workers,
            progress=progress,
        )
    if plot is not None:
        write_plot(found, plot)
    if as_json:
        print_json(found.to_json())
        return
    show([sensitivity_table(found)])
    if plot is not None:
        say(f"Wrote {plot}")
