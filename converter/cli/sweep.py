"""The command `sweep`."""

from pathlib import Path
from typing import Any

import click

import converter
from converter.cli import options
from converter.cli.context import given_preprocess, keeping, print_json
from converter.cli.lines import say
from passes.errors import SweepError, UsageError

__all__ = ["sweep"]

_WORKERS = ("workers", "scheduler", "storage", "worker_memory")
_OF_THE_RUN = frozenset(
    ["models", "folder", "keep_files", "page", "retry", "as_json", "quiet", "custom_ops", *_WORKERS]
)
"""Parameters that are no part of a plan."""


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...|SWEEP.toml")
@click.option(
    "-o", "--output", "folder", type=options.FILE, required=True, metavar="DIR", help="Folder for rows and files."
)
@click.option("--recipe", "recipes", multiple=True, metavar="NAME|FILE", help="Recipe, see `recipes`; may be repeated.")
@click.option(
    "--bits",
    type=click.IntRange(2, 8),
    multiple=True,
    metavar="N",
    help="Bits of all weights, in place of each recipe's own; may be repeated.",
)
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="Target, see `targets`; by default cpu; may be repeated."
)
@click.option("--calibration", metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE.")
@click.option("--evaluate", "evaluation", metavar="DATA", help="Measure before and after on these data.")
@options.metric
@click.option(
    "--exclude", multiple=True, metavar="LAYER", help="Leave layers of every model in float; may be repeated."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most samples that calibrate; by default the recipe's, 512.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Random seed; by default the recipe's, 0.")
@options.deterministic
@click.option(
    "--no-timing", "timing", is_flag=True, default=True, flag_value=False, help="Time no file, without --evaluate."
)
@click.option(
    "--no-files", "keep_files", is_flag=True, default=True, flag_value=False, help="Keep the results, and no file."
)
@click.option(
    "--no-page", "page", is_flag=True, default=True, flag_value=False, help="Write no sweep.html with the plots."
)
@click.option("--retry", is_flag=True, help="Run those again that failed in an earlier run.")
@options.workers
@options.json
@options.torch
@options.images
@options.custom_ops
@options.quiet
def sweep(
    models: tuple[str, ...],
    folder: Path,
    keep_files: bool,
    page: bool,
    retry: bool,
    workers: "converter.Workers",
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Convert models by several recipes, and compare the files.

    Every MODEL is converted by every recipe, at all bits, for all targets, and measured. SWEEP.toml says the same in a
    file. DIR gets the files, sweep.json, sweep.csv and sweep.html with plots. After an interruption, the same command
    goes on with what is left.
    """
    from converter.report.progress import progress_bars
    from converter.report.sweep import SWEEP_SUFFIXES, check_sweep, sweep_table, write_sweep
    from converter.report.table import show

    outputs = [folder / f"sweep{suffix}" for suffix in SWEEP_SUFFIXES if page or suffix != ".html"]
    for path in outputs:
        try:
            check_sweep(path)
        except UsageError as error:
            raise UsageError(
                f"{path} needs the extra report; install convert-onnx[report], or give --no-page"
            ) from error
    plan = _plan(models, folder, chosen)
    with keeping(folder), progress_bars(quiet=quiet) as progress:
        found = converter.sweep(plan, folder, keep_files=keep_files, retry=retry, workers=workers, progress=progress)
    for path in outputs:
        write_sweep(found, path)
    if as_json:
        print_json(found.to_json())
    else:
        show([sweep_table(found)])
        for path in outputs:
            say(f"Wrote {path}")
    if found.failed:
        first = found.failed[0]
        raise SweepError(
            f"{len(found.failed)} of {len(found.rows)} conversions failed, the first is {first.model} with {first.way} "
            f"for {first.target}: {first.failure}; --retry runs them again"
        )


def _plan(models: tuple[str, ...], folder: Path, chosen: dict[str, Any]) -> "converter.SweepPlan":
    """Return the plan of a file, or of the options."""
    from converter.cli.outputs import same_file

    if any(name.endswith(".toml") for name in models):
        if len(models) > 1:
            raise UsageError(f"{' '.join(models)}: give one .toml file with all models, or models")
        _refuse_options(models[0])
        return converter.read_plan(models[0])
    for name in ("calibration", "evaluation"):
        if chosen[name] is not None and same_file(folder, chosen[name]):
            raise UsageError(f"--output {folder} has the data of the sweep; give another folder")
    if not chosen["recipes"]:
        raise UsageError("a sweep without recipes converts nothing; give --recipe once or several times")
    parts = {name: chosen.pop(name) for name in ("calibration", "evaluation", "export", "exclude")}
    names = ("limit", "seed", "metric", "deterministic", "timing")
    settings = converter.Settings(**{name: chosen.pop(name) for name in names})
    recipes, bits, targets = (chosen.pop(name) for name in ("recipes", "bits", "targets"))
    preprocess = given_preprocess(**chosen)
    return converter.SweepPlan(
        tuple(converter.SweepModel(model, preprocess=preprocess, **parts) for model in models),
        tuple(converter.SweepRecipe(name, bits) for name in recipes),
        targets or ("cpu",),
        settings,
    )


def _refuse_options(plan: str) -> None:
    """Refuse options whose place is in the file of the plan."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and parameter.name not in _OF_THE_RUN:
            raise UsageError(f"{parameter.opts[-1]} has no effect beside {plan}; write it into the file")
