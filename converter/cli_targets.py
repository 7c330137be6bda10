"""The commands `targets` and `verify`: they parse, call and print, as those in `converter.cli` do."""

import json
from pathlib import Path
from typing import Any

import click

from passes.errors import VerificationError

__all__ = ["targets", "verify"]


@click.command()
@click.argument("name", required=False, metavar="[NAME]")
def targets(name: str | None) -> None:
    """What there is for `--target`; with a NAME, all that is known of it and the sources."""
    from converter.report.table import show
    from converter.report.targets import facts_table, targets_table
    from converter.targets import TARGETS, find_target

    show([targets_table(TARGETS) if name is None else facts_table(find_target(name))])


def _fraction(_: click.Context, __: click.Parameter, value: float) -> float:
    if not 0 <= value <= 1:
        raise click.BadParameter(f"{value:g} is not a fraction from 0 to 1, such as 0.99")
    return value


@click.command()
@click.argument("model")
@click.option("--target", required=True, metavar="NAME", help="See `targets`.")
@click.option("--data", metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE; else 8 rows of noise.")
@click.option("--reference", metavar="FLOAT.onnx", help="The float file: judge by the distance from it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Images to use.")
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Interpreter, virtual environment or npm folder that has the target's provider.",
)
@click.option(
    "--min-agreement", type=float, callback=_fraction, default=0.99, show_default=True, help="With the CPU, on DATA."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def verify(
    model: str,
    target: str,
    data: str | None,
    reference: str | None,
    limit: int | None,
    runtime: Path | None,
    min_agreement: float,
    as_json: bool,
) -> None:
    """Run MODEL on its target, or check the target's rules.

    It is run where the target's provider is found, and compared with the CPU and with float. Exit code 3 if it does
    not load, leaves nodes to the CPU where the target must take all, or computes something else.
    """
    from converter.data import Preprocess
    from converter.load import read_onnx
    from converter.measured import load_for
    from converter.open import ModelFile
    from converter.report.table import show
    from converter.report.targets import verification_tables
    from converter.verify import verify as run

    read_onnx(Path(model))
    dataset = None if data is None else load_for([ModelFile(model, Path(model))], data, Preprocess(), limit)
    found = run(
        Path(model),
        target,
        dataset,
        reference=None if reference is None else Path(reference),
        runtime=runtime,
        min_agreement=min_agreement,
    )
    if as_json:
        _print(found.to_json())
    else:
        show(verification_tables(found))
    if not found.passed:
        first, *others = found.failures
        more = f" (and {len(others)} more)" if others else ""
        mend = f"; convert the float model with --target {target}" if found.how == "rules" else ""
        raise VerificationError(f"{model} on {target}, by {found.how}: {first}{more}{mend}")
    if not as_json:
        click.echo(f"{model}: verified on {target} by {found.how}")


def _print(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2))
