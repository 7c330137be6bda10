"""Commands that examine files: `evaluate`, `compare`, `inspect` and `view`."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

import converter
from converter.cli import options
from converter.cli.context import given_preprocess, print_json
from converter.cli.lines import say
from passes.errors import UsageError

if TYPE_CHECKING:
    from converter.comparison.suggestion import Suggestion
    from converter.data.model_data import ModelsOnData

__all__ = ["compare", "evaluate", "inspect", "snippet", "view"]

_AND_ACT = "or add --act OUT.onnx to this command, which does that and shows the gain."
_INSTEAD = "`convert --min-sqnr 20` raises the whole file, and `sensitivity` ranks what costs most"
_WORST = 10  # layers in the table with --quiet
_WITHOUT_EFFECT = 4  # exit code of --act if nothing was written


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@options.data
@options.metric
@options.json
@options.limit
@options.torch
@options.images
@options.custom_ops
@options.quiet
def evaluate(
    models: tuple[str, ...],
    data: str,
    metric: str | None,
    as_json: bool,
    limit: int | None,
    export: "converter.ExportOptions",
    quiet: bool,
    **images: Any,
) -> None:
    """Measure accuracy, size and latency of models, side by side.

    A MODEL is an .onnx file or FILE.py:FACTORY. The first one is the reference. The preprocessing is that of the files'
    metadata, and options override it.
    """
    from converter.report.progress import progress_bars
    from converter.report.table import evaluation_table, show

    with progress_bars(quiet=quiet) as progress:
        evaluation = converter.evaluate(
            models,
            data,
            limit=limit,
            export=export,
            preprocess=given_preprocess(**images),
            metric=metric,
            progress=progress,
        )
    if as_json:
        print_json(evaluation.to_json())
    else:
        show([evaluation_table(evaluation)])


@click.command()
@click.argument("model")
@click.option(
    "--for",
    "language",
    type=click.Choice(["python", "cpp", "js", "node", "csharp", "android", "rust"]),
    default="python",
    show_default=True,
    help="Language of the program.",
)
def snippet(model: str, language: str) -> None:
    """Print a program that loads MODEL and runs it on one image.

    Preprocessing, sizes, outputs and the provider are those in the file.
    """
    click.echo(converter.snippet(model, language), nl=False)


@click.command()
@click.argument("reference")
@click.argument("model")
@options.data
@click.option(
    "--act",
    type=options.FILE,
    metavar="OUT.onnx",
    help="Convert again with the suggestion, write OUT.onnx and show the gain.",
)
@click.option("--calibration", metavar="DATA", help="Calibration data for --act; by default, those of MODEL.")
@options.metric
@options.json
@options.limit
@options.torch
@options.images
@options.custom_ops
@options.quiet
def compare(
    reference: str,
    model: str,
    data: str,
    act: Path | None,
    calibration: str | None,
    metric: str | None,
    as_json: bool,
    limit: int | None,
    export: "converter.ExportOptions",
    quiet: bool,
    **images: Any,
) -> None:
    """Find the layers that add most error, and a remedy.

    MODEL is compared with REFERENCE, the float model. Both are .onnx files or FILE.py:FACTORY. "So far" is the error
    of everything up to a layer. "Added" is the error of the layer itself: its output is compared with that of the
    float layer on the same inputs. The worst layers are then tried in float, and those that gain are suggested.
    """
    from converter.cli.outputs import check_outputs
    from converter.cli.suggestions import command, suggested_options
    from converter.data.model_data import models_on_data
    from converter.model_io.load import read_onnx
    from converter.model_io.open import is_factory
    from converter.pipeline.reconvert import require_origin, stored_origin
    from converter.report.comparison import comparison_tables, suggestion_text
    from converter.report.progress import progress_bars
    from converter.report.table import show

    if act is not None:
        read = [("REFERENCE", reference), ("MODEL", model), ("--data", data), ("--weights", export.weights)]
        check_outputs([("--act", act)], [*read, ("--calibration", calibration)])
        require_origin(Path(model), model, calibration)
    elif calibration is not None:
        raise UsageError(f"--calibration {calibration} is for --act; leave it out or add --act OUT.onnx")
    preprocess = given_preprocess(**images)
    annotated = metric is not None
    with models_on_data(
        (reference, model), data, limit=limit, export=export, preprocess=preprocess, annotated=annotated
    ) as on:
        first, second = on.files
        with progress_bars(quiet=quiet) as progress:
            names = (first.name, second.name)
            comparison = converter.compare(
                first.path, second.path, on.data, names=names, metric=metric, progress=progress
            )
            suggestion = converter.suggest(first.path, second.path, comparison, on.data, progress=progress)
        if not as_json:
            given = _given(export) if is_factory(reference) else ()
            line = command(reference, model, stored_origin(read_onnx(second.path)), suggestion, *given)
            tables = comparison_tables(comparison, on.data.preprocess, _WORST if quiet else None)
            show([*tables, *suggestion_text(suggestion, line, _AND_ACT)])
        acted = None if act is None else _act(on, suggestion, act, calibration, quiet, as_json)
        without_effect = act is not None and (acted is None or not acted["written"])
    if as_json:
        suggested = suggestion.to_json() | {"options": list(suggested_options(suggestion))}
        print_json(comparison.to_json() | {"suggestion": suggested, "act": acted})
    if without_effect:
        click.get_current_context().exit(_WITHOUT_EFFECT)


def _act(
    on: "ModelsOnData", suggestion: "Suggestion", output: Path, calibration: str | None, quiet: bool, as_json: bool
) -> dict[str, Any] | None:
    """Apply the suggestion. Write the file only if the scores gain. Return the values for JSON."""
    from converter.cli.suggestions import suggested_options
    from converter.pipeline.reconvert import apply_suggestion
    from converter.report.progress import progress_bars
    from converter.report.table import evaluation_table, show

    if suggestion.why:
        if not as_json:
            say(f"There is no suggestion; {output} was not written. {_INSTEAD}")
        return None
    first, second = on.paths
    names = (*on.names, str(output))
    with progress_bars(quiet=quiet) as progress:
        done = apply_suggestion(
            first,
            second,
            suggestion,
            on.data,
            calibration,
            names=(names[0], names[1], names[2]),
            progress=progress,
        )
        if done.gain_db > 0:
            done.result.save(output)
    if not as_json:
        show([evaluation_table(done.evaluation)])
        if done.gain_db > 0:
            say(f"Wrote {output}: {done.gain_db:+.1f} dB")
        else:
            options = " ".join(suggested_options(suggestion))
            say(f"{options} did not help ({done.gain_db:+.1f} dB); {output} was not written. {_INSTEAD}")
    return {"gain_db": done.gain_db, "written": done.gain_db > 0} | done.evaluation.to_json()


def _given(export: "converter.ExportOptions") -> tuple[str, ...]:
    """Return the options of a factory as given on the command line."""
    shape = export.input_shape
    named = shape.items() if isinstance(shape, Mapping) else ()
    shapes = [f"{name}={sizes}" for name, sizes in named] if named else [",".join(map(str, shape or ()))]
    words = [] if export.weights is None else ["--weights", str(export.weights)]
    words += [word for each in shapes if each for word in ("--input-shape", each)]
    return (*words, *([] if export.tolerance is None else ["--tolerance", f"{export.tolerance:g}"]))


@click.command()
@click.argument("model")
@options.json
@options.torch
@options.custom_ops
def inspect(model: str, as_json: bool, export: "converter.ExportOptions") -> None:
    """Show what is in a file, layer by layer.

    MODEL is an .onnx file or FILE.py:FACTORY. The table has bits, storage and bytes, and whether onnxruntime runs the
    layer on integers. If not, it says why.
    """
    from converter.report.islands import islands_tables
    from converter.report.table import inspection_tables, show

    inspection = converter.inspect(model, export=export)
    if as_json:
        print_json(inspection.to_json())
    else:
        show([*inspection_tables(inspection), *islands_tables(inspection)])


@click.command()
@click.argument("model")
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="Port of the server; by default, any free port."
)
@click.option("--no-browser", is_flag=True, help="Print the address of the page, and open no browser.")
def view(model: str, port: int | None, no_browser: bool) -> None:
    """Show a file in Netron, in the browser, until Ctrl-C.

    This needs the extra `view`: pip install convert-onnx[view].
    """
    with suppress(KeyboardInterrupt), converter.view(model, port=port, browse=not no_browser) as address:
        say(f"{model} is at {address}; Ctrl-C ends it")
        Event().wait()
