"""The command line: parses, calls, prints. Everything it does is a function of the library."""

import errno
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from converter import options
from converter.cli_targets import targets, verify
from converter.user_code import Terminated
from passes.errors import ConvertError, UsageError

if TYPE_CHECKING:
    from converter.preprocess import Preprocess
    from passes.learned_rounding import Device

__all__ = ["cli", "main"]

_DEBUG = "converter.debug"
_INTERRUPTED, _INTERRUPTED_CODE = "Interrupted", 130


def _debug(context: click.Context, _: click.Parameter, given: bool) -> None:
    context.find_root().meta[_DEBUG] = given or context.find_root().meta.get(_DEBUG, False)


_debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)


class _Commands(click.Group):
    """Turns whatever a command raises into one line on stderr and an exit code; gives every command --debug."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        super().add_command(_debug_option(cmd), name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo(_INTERRUPTED, err=True)
            ctx.exit(_INTERRUPTED_CODE)
        except Exception as error:
            if getattr(error, "errno", None) == errno.EPIPE:  # click ends quietly where the reader has gone
                raise
            if ctx.meta.get(_DEBUG):
                traceback.print_exc()
            message = "; ".join(line.strip() for line in _describe(error).splitlines() if line.strip())
            click.echo(f"Error: {message}", err=True)
            ctx.exit(error.exit_code if isinstance(error, ConvertError) else 1)


def _describe(error: Exception) -> str:
    if isinstance(error, ConvertError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; use fewer images (--limit)"
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
@click.option("--recipe", default="int8", show_default=True, metavar="NAME|FILE.toml", help="See `recipes`.")
@click.option("--target", default="cpu", show_default=True, metavar="NAME", help="See `targets`.")
@click.option("--calibration", metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Calibration images used; 512 unless the recipe says."
)
@click.option("--evaluate", "evaluation", metavar="DATA", help="Measure before and after on these data.")
@options.torch
@options.images
@click.option(
    "--report",
    type=options.FILE,
    multiple=True,
    metavar="FILE",
    help="Also write a .json or .html report; may be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of everything drawn at random.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where recipes that learn do it; auto: cuda if any."
)
@click.option("--measure-speed", is_flag=True, help="Leave activations in float where the file runs faster so here.")
@options.quiet
def convert(
    model: str,
    output: Path,
    recipe: str,
    target: str,
    calibration: str | None,
    limit: int | None,
    evaluation: str | None,
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    report: tuple[Path, ...],
    seed: int | None,
    device: "Device | None",
    measure_speed: bool,
    quiet: bool,
    **images: Any,
) -> None:
    """Quantize a model.

    MODEL is an .onnx file, FILE.py:FACTORY or FILE.py:FACTORY(name=value).
    """
    from converter.convert import convert as quantize
    from converter.evaluate import model_bytes
    from converter.open import is_factory
    from converter.outputs import check_outputs, same_file
    from converter.report import table
    from converter.report.files import check_suffix, write_report
    from converter.report.progress import progress_bars
    from converter.report.speed import speed_tables

    for path in report:
        check_suffix(path)
    check_outputs(
        [("-o", output), *(("--report", path) for path in report)],
        [
            ("MODEL", model),
            ("--calibration", calibration),
            ("--evaluate", evaluation),
            ("--weights", weights),
            ("--recipe", recipe),
        ],
    )
    if evaluation is not None and calibration is not None and same_file(evaluation, calibration):
        _warn(f"{evaluation} calibrates and evaluates: the accuracy shown is not that on unseen images")
    _state_shape([model], input_shape)
    with progress_bars(quiet=quiet) as progress:
        result = quantize(
            model,
            calibration,
            recipe=recipe,
            target=target,
            evaluation=evaluation,
            weights=weights,
            input_shape=input_shape,
            preprocess=_preprocess(**images),
            limit=limit,
            seed=seed,
            device=device,
            measure_speed=measure_speed,
            progress=progress,
            warn=_warn,
        )
        before = result.reference.ByteSize() if is_factory(model) else model_bytes(Path(model))
        result.save(output)
    after = model_bytes(output)
    tables = [*table.conversion_tables(result, before, after), *speed_tables(result.speed)]
    if not quiet:
        table.show(tables)
    elif result.metrics is not None:
        table.show(tables[:1])
    click.echo(f"Wrote {output} ({result.recipe.name}, {target}) in {result.seconds:.1f} s")
    files = {"model": model, "output": str(output), "bytes": {"before": before, "after": after}}
    title = f"{model} -> {output} ({result.recipe.name}, {target})"
    for path in report:
        write_report(path, title, files | result.to_json(), [*tables, table.layers_table(result)])
        click.echo(f"Wrote {path}")


@cli.command()
@click.argument("model", metavar="FILE.py:FACTORY")
@options.output
@options.torch
@options.images
@options.quiet
def export(
    model: str, output: Path, weights: Path | None, input_shape: tuple[int, ...] | None, quiet: bool, **images: Any
) -> None:
    """Write a PyTorch model as float ONNX.

    FACTORY, or FACTORY(name=value), returns the torch.nn.Module. The preprocessing of its images goes into the file.
    """
    from converter.evaluate import model_bytes
    from converter.export import export as export_module
    from converter.factory import load_module
    from converter.inputs import input_specs
    from converter.open import DEFAULT_INPUT_SHAPE
    from converter.outputs import check_outputs
    from converter.preprocess import store_preprocess
    from converter.preprocess_use import check_channels
    from converter.report.table import size
    from converter.save import save_onnx

    check_outputs([("-o", output)], [("MODEL", model), ("--weights", weights)])
    preprocess = _preprocess(**images)
    _state_shape([model], input_shape)
    exported = export_module(load_module(model, weights), input_shape or DEFAULT_INPUT_SHAPE)
    if any(images.values()):
        check_channels(preprocess, input_specs(exported.model))
        store_preprocess(exported.model, preprocess)
    save_onnx(exported.model, output)
    if not quiet:
        click.echo(f"Parity: {exported.parity}")
    click.echo(f"Wrote {output} ({size(model_bytes(output))})")


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@options.data
@options.json
@options.limit
@options.torch
@options.images
@options.quiet
def evaluate(
    models: tuple[str, ...],
    data: str,
    as_json: bool,
    limit: int | None,
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    quiet: bool,
    **images: Any,
) -> None:
    """Accuracy, size and latency, side by side.

    A MODEL is an .onnx file or FILE.py:FACTORY; the first is the reference. Preprocessing comes from
    the files' metadata; options go before it.
    """
    from converter.evaluate import evaluate as measure
    from converter.measured import load_for
    from converter.open import model_files, suggesting_shape
    from converter.preprocess_use import unscaled
    from converter.report import table
    from converter.report.progress import progress_bars

    preprocess = _preprocess(**images)
    shape = _state_shape(models, input_shape)
    with model_files(models, weights=weights, input_shape=input_shape) as files:
        with suggesting_shape(shape):
            dataset = load_for(files, data, preprocess, limit)
        _warn(unscaled(dataset))
        with progress_bars(quiet=quiet) as progress:
            names = [file.name for file in files]
            evaluation = measure([file.path for file in files], dataset, names=names, progress=progress)
    if as_json:
        _print_json(evaluation.to_json())
    else:
        table.show([table.evaluation_table(evaluation)])


@cli.command()
@click.argument("reference")
@click.argument("model")
@options.data
@options.json
@options.limit
@options.torch
@options.images
@options.quiet
def compare(
    reference: str,
    model: str,
    data: str,
    as_json: bool,
    limit: int | None,
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    quiet: bool,
    **images: Any,
) -> None:
    """Errors of MODEL against REFERENCE, by layer; both are .onnx files or FILE.py:FACTORY."""
    from converter.compare import compare as measure
    from converter.measured import load_for
    from converter.open import model_files, suggesting_shape
    from converter.preprocess_use import unscaled
    from converter.report import table
    from converter.report.progress import progress_bars

    preprocess = _preprocess(**images)
    shape = _state_shape((reference, model), input_shape)
    with model_files((reference, model), weights=weights, input_shape=input_shape) as files:
        with suggesting_shape(shape):
            dataset = load_for(files, data, preprocess, limit)
        _warn(unscaled(dataset))
        with progress_bars(quiet=quiet) as progress:
            first, second = files
            names = (first.name, second.name)
            comparison = measure(first.path, second.path, dataset, names=names, progress=progress)
    if as_json:
        _print_json(comparison.to_json())
    else:
        table.show(table.comparison_tables(comparison, dataset.preprocess))


@cli.command()
@click.argument("model")
@options.json
@options.torch
def inspect(model: str, as_json: bool, weights: Path | None, input_shape: tuple[int, ...] | None) -> None:
    """What is in an .onnx file, or in the export of FILE.py:FACTORY, by layer.

    Bits, storage, bytes, and whether onnxruntime runs the layer on integers; if not, why.
    """
    from converter.inspect import inspect_model
    from converter.open import model_files
    from converter.report import table
    from converter.report.islands import islands_tables

    _state_shape([model], input_shape)
    with model_files([model], weights=weights, input_shape=input_shape) as files:
        inspection = inspect_model(files[0].path, files[0].name)
    if as_json:
        _print_json(inspection.to_json())
    else:
        table.show([*table.inspection_tables(inspection), *islands_tables(inspection)])


@cli.command()
@click.option("--show", "name", metavar="NAME", help="Print one recipe as TOML, every field spelled out.")
def recipes(name: str | None) -> None:
    """What there is for `convert --recipe`."""
    from converter.recipe import RECIPES, find_recipe
    from converter.recipe_text import spell_out
    from converter.report import table

    if name is not None:
        click.echo(spell_out(find_recipe(name)), nl=False)
    else:
        table.show([table.recipes_table(RECIPES)])


cli.add_command(targets)
cli.add_command(verify)


def _preprocess(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, resize: int | None, crop: int | None
) -> "Preprocess":
    from converter.preprocess import Preprocess

    try:
        return Preprocess(mean=mean, std=std, resize=resize, crop=crop)
    except ConvertError as error:
        raise UsageError(str(error)) from error


def _state_shape(models: Sequence[str], input_shape: tuple[int, ...] | None) -> str:
    """Say which input shape is assumed where one is needed and was not given; returns it."""
    from converter.open import assumed_shape

    shape = assumed_shape(models, input_shape)
    _warn(shape and f"inputs are assumed to be {shape}; --input-shape gives another")
    return shape


def _warn(message: str) -> None:
    if message:
        click.echo(f"Warning: {message}", err=True)


def _print_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def _leave(number: int, _: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that temporary files go."""
    raise Terminated(128 + number)


def main() -> None:
    """Entry point of `convert-onnx`."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        cli(prog_name="convert-onnx")
    except KeyboardInterrupt:  # before or after a command
        click.echo(_INTERRUPTED, err=True)
        sys.exit(_INTERRUPTED_CODE)


if __name__ == "__main__":
    main()
