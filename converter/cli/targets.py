"""The commands `targets` and `verify`."""

from pathlib import Path
from typing import Any

import click

import converter
from converter.cli import options
from converter.cli.context import print_json
from converter.cli.lines import say
from converter.cli.messages import in_words_of
from passes.errors import UsageError, VerificationError

__all__ = ["targets", "verify"]

_MORE = "--json lists them all"
_HOW = {"run": "by running it", "rules": "by the target's rules"}


@click.command()
@click.argument("name", required=False, metavar="[NAME]")
def targets(name: str | None) -> None:
    """List the targets; with NAME, the facts about one."""
    from converter.report.table import show
    from converter.report.targets import facts_table, targets_table
    from converter.targets.catalog import find_target, known_targets

    show([targets_table(known_targets()) if name is None else facts_table(find_target(name))])


def _fraction(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise click.BadParameter(f"{value:g} is not a fraction from 0 to 1, such as 0.99")
    return value


@click.command()
@click.argument("model")
@click.option("--target", required=True, metavar="NAME", help="Target to verify, see `targets`.")
@click.option(
    "--data", metavar="DATA", help=".npz, folder of images or FILE.py:CALLABLE; by default 8 samples of noise."
)
@click.option("--reference", metavar="FLOAT.onnx", help="Float file: judge by the distance from it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Images to use.")
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Interpreter, virtual environment or npm folder that has the target's provider.",
)
@click.option(
    "--min-agreement", type=float, callback=_fraction, help="Least agreement with the CPU on DATA; by default 0.99."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@options.custom_ops
def verify(
    model: str,
    target: str,
    data: str | None,
    reference: str | None,
    limit: int | None,
    runtime: Path | None,
    min_agreement: float | None,
    as_json: bool,
) -> None:
    """Run MODEL on its target, or check it against the target's rules.

    The file runs where the target's provider is found, and is compared with the CPU and with float. The exit code is 3
    if the file does not load, if the target runs none of its nodes (or not all, where it must), or if it computes
    something else.
    """
    from converter.model_io.load import read_onnx
    from converter.report.table import show
    from converter.report.targets import verification_tables
    from converter.verification.verify import MIN_AGREEMENT

    read_onnx(Path(model))
    given = {"--data": data, "--reference": reference, "--limit": limit, "--min-agreement": min_agreement}
    _refuse_unused(target, runtime, [option for option, value in given.items() if value is not None])
    verification = converter.verify(
        model,
        target,
        data,
        reference=reference,
        runtime=runtime,
        limit=limit,
        min_agreement=MIN_AGREEMENT if min_agreement is None else min_agreement,
    )
    if as_json:
        _print(verification.to_json())
    else:
        show(verification_tables(verification, _MORE))
        for note in verification.notes:
            say(f"Note: {note}")
    if not verification.passed:
        first, *others = verification.failures
        more = f" (and {len(others)} more)" if others else ""
        raise VerificationError(
            f"{model} on {target}, {_HOW[verification.how]}: {first}{more}; {verification.next_step}"
        )
    if not as_json:
        say(f"{model}: verified on {target} {_HOW[verification.how]}")


def _refuse_unused(target: str, runtime: Path | None, given: list[str]) -> None:
    """Refuse options on the run if the file is not run, and options on images if there are none.

    Raises:
        UsageError: There is such an option. The message names it.
        TargetError: See `find_target` and `find_environment`.
    """
    from converter.targets.catalog import find_target
    from converter.verification.environments import find_environment

    environment = find_environment(find_target(target), runtime)
    if isinstance(environment, str) and given:
        options = ", ".join(given)
        raise UsageError(f"{options}: no effect, since the file is not run ({environment}); leave it out")
    unused = [option for option in ("--limit", "--min-agreement") if option in given and "--data" not in given]
    if unused:
        raise UsageError(f"{' and '.join(unused)} would have no effect without --data; add --data, or leave it out")


def _print(content: dict[str, Any]) -> None:
    """Print JSON whose texts name options, as messages do."""
    context = click.get_current_context()
    failures = [in_words_of(context, failure) for failure in content["failures"]]
    print_json(content | {"failures": failures, "next_step": in_words_of(context, content["next_step"])})
