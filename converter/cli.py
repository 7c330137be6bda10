"""The command line: parses, calls, prints. Everything it does is a function of the library."""

import errno
import json
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from converter.cli_targets import targets, verify
from passes.errors import ConvertError

if TYPE_CHECKING:
    from converter.preprocess import Preprocess

__all__ = ["cli", "main"]

_INTERRUPTED, _INTERRUPTED_CODE = "Interrupted; nothing was written", 130
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 0.5,0.5,0.5") from error


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of sizes such as 1,3,224,224") from error
    if min(sizes) < 1:
        raise click.BadParameter(f"{text!r} has a size below 1; write sizes such as 1,3,224,224")
    return sizes


class _Commands(click.Group):
    """Turns whatever a command raises into one line on stderr and an exit code."""

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
            if ctx.params.get("debug"):
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


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options as one decorator, in the order in which --help shows them."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_FILE = click.Path(path_type=Path)
_output = click.option("-o", "--output", type=_FILE, required=True, metavar="OUT.onnx", help="File to write.")
_torch = _options(
    click.option("--weights", type=_FILE, metavar="FILE", help=".safetensors, .npz or .pt for FILE.py:FACTORY."),
    click.option("--input-shape", type=_shape, metavar="1,3,224,224", help="Of FILE.py:FACTORY, with the batch."),
)
_images = _options(
    click.option("--mean", type=_floats, metavar="a,b,c", help="Subtracted from uint8 images, on the 0..1 scale."),
    click.option("--std", type=_floats, metavar="a,b,c", help="Divides them, on the 0..1 scale."),
    click.option("--resize", type=click.IntRange(min=1), metavar="N", help="Their shorter side becomes N pixels."),
    click.option("--crop", type=click.IntRange(min=1), metavar="N", help="Their N x N centre is used."),
)
_limit = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Images to use.")
_data = click.option("--data", required=True, metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE.")
_quiet = click.option(
    "--quiet", is_flag=True, help="Print less: no progress bars, and one line from convert and export."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="convert-onnx", prog_name="convert-onnx", message="%(prog)s %(version)s")
def cli(debug: bool) -> None:
    """Turn a PyTorch CNN or an ONNX file into a small, fast, accurate quantized ONNX model."""


@cli.command()
@click.argument("model")
@_output
@click.option("--recipe", default="int8", show_default=True, metavar="NAME|FILE.toml", help="See `recipes`.")
@click.option("--target", default="cpu", show_default=True, metavar="NAME", help="See `targets`.")
@click.option("--calibration", metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Calibration images used; 512 unless the recipe says."
)
@click.option("--evaluate", "evaluation", metavar="DATA", help="Measure before and after on these data.")
@_torch
@_images
@click.option("--report", type=_FILE, metavar="FILE", help="Also write a .json or .html report.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of everything drawn at random.")
@_quiet
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
    report: Path | None,
    seed: int | None,
    quiet: bool,
    **images: Any,
) -> None:
    """Quantize a model.

    MODEL is an .onnx file, FILE.py:FACTORY or FILE.py:FACTORY(name=value).
    """
    from converter.convert import convert as quantize
    from converter.evaluate import model_bytes
    from converter.open import is_factory
    from converter.report import table
    from converter.report.files import prepare_report, write_report
    from converter.report.progress import progress_bars
    from converter.save import prepare_output

    if _same(model, str(output)):
        raise click.UsageError(f"-o {output} is the model itself; give another name")
    prepare_output(output)
    if report is not None:
        prepare_report(report)
    if evaluation is not None and calibration is not None and _same(evaluation, calibration):
        _warn(f"{evaluation} calibrates and evaluates: the accuracy shown is not that on unseen images")
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
            progress=progress,
        )
        before = result.reference.ByteSize() if is_factory(model) else model_bytes(Path(model))
        result.save(output)
    after = model_bytes(output)
    tables = [table.before_after_table(result, before, after), table.weights_table(result.layers)]
    left = table.float_layers_table(result.layers)
    tables += [] if left is None else [left]
    if report is not None:
        files = {"model": model, "output": str(output), "bytes": {"before": before, "after": after}}
        title = f"{model} -> {output} ({result.recipe.name}, {target})"
        write_report(report, title, files | result.to_json(), [*tables, table.layers_table(result.layers)])
    if not quiet:
        table.show(tables)
    where = "" if report is None else f", report {report}"
    click.echo(f"Wrote {output} ({result.recipe.name}, {target}){where} in {result.seconds:.1f} s")


@cli.command()
@click.argument("model", metavar="FILE.py:FACTORY")
@_output
@_torch
@_quiet
def export(model: str, output: Path, weights: Path | None, input_shape: tuple[int, ...] | None, quiet: bool) -> None:
    """Write a PyTorch model as float ONNX.

    FACTORY, or FACTORY(name=value), returns the torch.nn.Module.
    """
    from converter.evaluate import model_bytes
    from converter.export import export as export_module
    from converter.factory import load_module
    from converter.open import DEFAULT_INPUT_SHAPE
    from converter.report.table import size
    from converter.save import prepare_output, save_onnx

    prepare_output(output)
    exported = export_module(load_module(model, weights), input_shape or DEFAULT_INPUT_SHAPE)
    save_onnx(exported.model, output)
    if not quiet:
        click.echo(f"Parity: {exported.parity}")
    click.echo(f"Wrote {output} ({size(model_bytes(output))})")


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@_data
@_json
@_limit
@_images
@_quiet
def evaluate(models: tuple[str, ...], data: str, as_json: bool, limit: int | None, quiet: bool, **images: Any) -> None:
    """Accuracy, size and latency, side by side.

    The first MODEL is the reference. Preprocessing comes from the files' metadata; options go before it.
    """
    from converter.evaluate import evaluate as measure
    from converter.measured import load_for
    from converter.report import table
    from converter.report.progress import progress_bars

    dataset = load_for(models, data, _preprocess(**images), limit)
    with progress_bars(quiet=quiet) as progress:
        evaluation = measure([Path(model) for model in models], dataset, progress=progress)
    if as_json:
        _print_json(evaluation.to_json())
    else:
        table.show([table.evaluation_table(evaluation)])


@cli.command()
@click.argument("reference")
@click.argument("model")
@_data
@_json
@_limit
@_images
@_quiet
def compare(
    reference: str, model: str, data: str, as_json: bool, limit: int | None, quiet: bool, **images: Any
) -> None:
    """Errors of MODEL against REFERENCE, by layer."""
    from converter.compare import compare as measure
    from converter.measured import load_for
    from converter.report import table
    from converter.report.progress import progress_bars

    dataset = load_for((reference, model), data, _preprocess(**images), limit)
    with progress_bars(quiet=quiet) as progress:
        comparison = measure(Path(reference), Path(model), dataset, progress=progress)
    if as_json:
        _print_json(comparison.to_json())
    else:
        table.show(table.comparison_tables(comparison))


@cli.command()
@click.argument("model")
@_json
def inspect(model: str, as_json: bool) -> None:
    """What is in an .onnx file, by layer.

    Bits, storage, bytes, and whether onnxruntime runs the layer on integers; if not, why.
    """
    from converter.inspect import inspect_model
    from converter.report import table

    inspection = inspect_model(model)
    if as_json:
        _print_json(inspection.to_json())
    else:
        table.show(table.inspection_tables(inspection))


@cli.command()
@click.option("--show", "name", metavar="NAME", help="Print one recipe as TOML, every field spelled out.")
def recipes(name: str | None) -> None:
    """What there is for `convert --recipe`."""
    from converter.recipe import RECIPES, dump_recipe, find_recipe
    from converter.report import table

    if name is not None:
        click.echo(dump_recipe(find_recipe(name)), nl=False)
    else:
        table.show([table.recipes_table(RECIPES)])


cli.add_command(targets)
cli.add_command(verify)


def _preprocess(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, resize: int | None, crop: int | None
) -> "Preprocess":
    from converter.preprocess import Preprocess

    return Preprocess(mean=mean, std=std, resize=resize, crop=crop)


def _same(first: str, second: str) -> bool:
    return first == second or Path(first).resolve() == Path(second).resolve()


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)


def _print_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2))


def _leave(number: int, _: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that temporary files go."""
    raise SystemExit(128 + number)


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
