"""Entry point of the command line. Every command parses its options, calls a library function and prints."""

import errno
import itertools
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import converter
from converter.cli import options
from converter.cli.analysis import compare, evaluate, inspect, snippet, view
from converter.cli.context import given_preprocess, warn
from converter.cli.lines import say
from converter.cli.messages import in_words_of, logged_warnings
from converter.cli.ort import ort
from converter.cli.sensitivity import sensitivity
from converter.cli.signals import listen, stop_listening
from converter.cli.sweep import sweep
from converter.cli.targets import targets, verify
from converter.cli.train import train
from converter.model_io.user_code import Terminated
from converter.runtime.freed_memory import is_small, keep_freed_memory
from passes.errors import ConvertError

if TYPE_CHECKING:
    from converter.budget.limits import Budget
    from passes.base import Device

__all__ = ["cli", "main"]

_DEBUG = "converter.debug"
_INTERRUPTED, _INTERRUPTED_CODE = "Interrupted", 130


def _debug(context: click.Context, _: click.Parameter, given: bool) -> None:
    context.find_root().meta[_DEBUG] = given or context.find_root().meta.get(_DEBUG, False)


_debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)


class _Commands(click.Group):
    """Group that turns every error into one line on stderr and an exit code. Every command gets --debug."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        super().add_command(_debug_option(cmd), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse empty values, which stand for the current folder or for nothing, and are a slip of a script."""
        for before, given in itertools.pairwise(args):
            if not given or (given.startswith("--") and given.endswith("=") and given.count("=") == 1):
                what = given[:-1] or (before if before.startswith("-") else "an argument")
                raise click.UsageError(f"{what} is empty; give a value, or leave it out")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with logged_warnings(lambda text: in_words_of(ctx, text)):
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (KeyboardInterrupt, Terminated) as stopped:
            words, code = _stopped(stopped)
            say("; ".join(words), error=True)
            ctx.exit(code)
        except Exception as error:
            if getattr(error, "errno", None) == errno.EPIPE:  # click ends quietly if the reader has closed the pipe
                raise
            if ctx.meta.get(_DEBUG):
                traceback.print_exc()
            message = "; ".join(line.strip() for line in _describe(error).splitlines() if line.strip())
            say(f"Error: {in_words_of(ctx, message)}", error=True)
            ctx.exit(error.exit_code if isinstance(error, ConvertError) else 1)


def _stopped(error: KeyboardInterrupt | Terminated) -> tuple[list[str], int]:
    """Return the parts of the message on the signal that ended a command, and the exit code."""
    notes = getattr(error, "__notes__", [])
    if isinstance(error, Terminated):
        return ["Terminated", *notes], int(error.code or 0)
    return [_INTERRUPTED, *notes], _INTERRUPTED_CODE


def _describe(error: Exception) -> str:
    if isinstance(error, ConvertError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; use fewer samples (`limit=`)"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {error}; this is a bug: run again with --debug"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@_debug_option
@click.version_option(package_name="convert-onnx", prog_name="convert-onnx", message="%(prog)s %(version)s")
def cli() -> None:
    """Turn a PyTorch CNN or an ONNX file into a small, fast, accurate quantized ONNX model."""


@cli.command()
@click.argument("model")
@options.output
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Name (see `recipes`), .toml file, or .onnx file whose recipe is used again; by default int8, or auto with a "
    "budget.",
)
@options.target
@options.layers
@click.option("--calibration", metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most samples that calibrate; by default the recipe's, 512. Up to 8 others judge.",
)
@click.option("--evaluate", "evaluation", metavar="DATA", help="Measure before and after on these data.")
@options.metric
@options.torch
@options.images
@options.embedding
@options.custom_ops
@options.report
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Random seed; by default the recipe's, 0.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Device of passes that learn; auto: cuda if there is one.",
)
@options.prune_channels
@options.budget
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="SQNR that every output needs; what costs most gets more bits, or stays in float, until the file has it.",
)
@click.option(
    "--measure-speed", is_flag=True, help="Keep activations in float where this machine runs the layer faster."
)
@click.option(
    "--float16", is_flag=True, help="Write what stays in float as float16; the target computes in it or stores it."
)
@options.deterministic
@options.timing
@options.workers
@options.verbose
@options.quiet
def convert(
    model: str,
    output: Path,
    recipe: str | None,
    target: str,
    exclude: tuple[str, ...],
    bits: tuple[tuple[str, int], ...],
    calibration: str | None,
    limit: int | None,
    evaluation: str | None,
    metric: str | None,
    export: "converter.ExportOptions",
    report: tuple[Path, ...],
    seed: int | None,
    device: "Device | None",
    budget: "Budget | None",
    cache: Path | None,
    min_sqnr: float | None,
    measure_speed: bool,
    prune_channels: "float | Literal['auto'] | None",
    embed_preprocess: str | None,
    embed_resize: bool,
    float16: bool,
    class_index: bool,
    deterministic: bool,
    timing: bool,
    workers: "converter.Workers",
    verbose: bool,
    quiet: bool,
    **images: Any,
) -> None:
    """Quantize a model.

    MODEL is an .onnx file, FILE.py:FACTORY or FILE.py:FACTORY(name=value).
    """
    from converter.cache.folder import MOST_BYTES, shrink
    from converter.cli.budget import convert_for, work_folder
    from converter.cli.finish import finish
    from converter.cli.outputs import check_outputs, same_file
    from converter.display.numbers import size
    from converter.model_io.lock import owned
    from converter.report.files import check_report
    from converter.report.progress import progress_bars

    if is_small(model, export.weights):
        keep_freed_memory()
    for path in report:
        check_report(path)
    check_outputs(
        [("-o", output), *(("--report", path) for path in report)],
        [
            ("MODEL", model),
            ("--calibration", calibration),
            ("--evaluate", evaluation),
            ("--weights", export.weights),
            ("--recipe", recipe),
        ],
    )
    if evaluation is not None and calibration is not None and same_file(evaluation, calibration):
        warn(f"{evaluation} is used to calibrate and to evaluate: the accuracy is not that on unseen samples")
    with owned(output), work_folder(budget, cache, output) as folder:
        with progress_bars(quiet=quiet) as progress:
            result = convert_for(
                budget,
                folder,
                workers,
                model,
                calibration,
                recipe,
                target=target,
                exclude=exclude,
                bits=dict(bits),
                evaluation=evaluation,
                export=export,
                preprocess=given_preprocess(**images),
                settings=converter.Settings(
                    limit=limit,
                    seed=seed,
                    device=device,
                    measure_speed=measure_speed,
                    metric=metric,
                    min_sqnr=min_sqnr,
                    prune_channels=prune_channels,
                    deterministic=deterministic,
                    embed_preprocess=embed_preprocess,
                    embed_resize=embed_resize,
                    float16=float16,
                    class_index=class_index,
                    timing=timing,
                ),
                progress=progress,
            )
        finish(result, model, output, report, quiet=quiet, verbose=verbose)
        if cache is not None:
            left = shrink(cache)
            if not quiet:
                say(f"Cache {cache}: {size(left)}, at most {size(MOST_BYTES)} are kept")


@cli.command()
@click.argument("model", metavar="FILE.py:FACTORY")
@options.output
@options.torch
@options.images
@options.quiet
def export(model: str, output: Path, export: "converter.ExportOptions", quiet: bool, **images: Any) -> None:
    """Write a PyTorch model as float ONNX.

    FACTORY, or FACTORY(name=value), returns the torch.nn.Module. The preprocessing of its images goes into the file.
    """
    from converter.cli.outputs import check_outputs
    from converter.display.numbers import size
    from converter.model_io.lock import owned
    from converter.model_io.structure import model_bytes

    check_outputs([("-o", output)], [("MODEL", model), ("--weights", export.weights)])
    with owned(output):
        exported = converter.export(model, export=export, preprocess=given_preprocess(**images))
        exported.save(output)
    if not quiet:
        say(f"Parity: {exported.parity}")
    say(f"Wrote {output} ({size(model_bytes(output))})")


@cli.command()
@click.option("--show", "name", metavar="NAME", help="Print one recipe as TOML, with every field.")
def recipes(name: str | None) -> None:
    """List the recipes for `convert --recipe`."""
    from converter.recipes.builtin import RECIPES, find_recipe
    from converter.recipes.registry import added_pass_names
    from converter.recipes.toml_template import spell_out
    from converter.report import table

    if name is not None:
        click.echo(spell_out(find_recipe(name)), nl=False)
        return
    added = added_pass_names()
    table.show([table.recipes_table(RECIPES)])
    if added:
        say(f"Passes of other packages, for a recipe file: {', '.join(added)}")


for command in (train, evaluate, compare, sensitivity, sweep, inspect, snippet, view, verify, ort, targets):
    cli.add_command(command)


def main() -> None:
    """Entry point of `convert-onnx`."""
    listen()
    try:
        cli(prog_name="convert-onnx")
    except KeyboardInterrupt:  # before or after a command
        say(_INTERRUPTED, error=True)
        sys.exit(_INTERRUPTED_CODE)
    finally:
        stop_listening()


if __name__ == "__main__":
    main()
