"""The commands `targets` and `verify`."""

import subprocess
from pathlib import Path
from typing import Any

import click

import converter
from converter.cli import options
from converter.cli.context import print_json
from converter.cli.lines import say
from converter.cli.messages import in_words_of
from passes.errors import TargetError, UsageError, VerificationError

__all__ = ["targets", "verify"]

_MORE = "--json lists them all"
_HOW = {"run": "by running it", "rules": "by the target's rules"}


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME | setup [NAME...]]")
def targets(names: tuple[str, ...]) -> None:
    """List the targets; with NAME, the facts about one.

    `targets setup NAME` installs the runtime on which `verify` runs files for a target, into a folder of its own:
    $CONVERT_ONNX_TARGETS/NAME, or build/targets/NAME. Without a NAME, it installs all of them.
    """
    from converter.report.table import show
    from converter.report.targets import facts_table, targets_table
    from converter.targets.catalog import find_target, known_targets

    if names[:1] == ("setup",):
        _set_up(names[1:])
        return
    if len(names) > 1:
        raise UsageError(f"{' '.join(names)}: give one target, or `setup` and targets")
    show([facts_table(find_target(names[0])) if names else targets_table(known_targets())])


def _set_up(names: tuple[str, ...]) -> None:
    """Install runtimes. One that cannot be installed does not stop the others.

    Raises:
        UsageError: There is no runtime for a target.
        TargetError: A runtime cannot be installed.
    """
    from converter.cli.runtimes import RUNTIMES, set_up

    for name in names:
        if name not in RUNTIMES:
            raise UsageError(f"there is no runtime to install for {name!r}; there are: {', '.join(RUNTIMES)}")
    failed: dict[str, str] = {}
    for name in names or RUNTIMES:
        say(f"installing {name}", error=True)
        try:
            say(f"{name}: {set_up(name)}")
        except subprocess.CalledProcessError as error:
            failed[name] = f"{name}: its installer ended with {error.returncode}, see its output above"
        except FileNotFoundError as error:
            failed[name] = f"{name}: {error.filename} is not on the path; install Node.js, which has npm"
        except OSError as error:
            failed[name] = f"{name}: {error.filename}: {error.strerror}"
    if failed:
        raise TargetError(f"{', '.join(failed)} cannot be installed: {'; '.join(failed.values())}")


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
    "--min-agreement",
    type=float,
    callback=_fraction,
    help="Least agreement with the CPU on DATA; by default 0.99, or that of the CPU with --reference.",
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

    read_onnx(Path(model))
    given = {"--data": data, "--reference": reference, "--limit": limit, "--min-agreement": min_agreement}
    unused = _without_effect(target, runtime, [option for option, value in given.items() if value is not None])
    verification = converter.verify(
        model,
        target,
        data,
        reference=reference,
        runtime=runtime,
        limit=limit,
        min_agreement=min_agreement,
    )
    if as_json:
        _print(verification.to_json())
    else:
        show(verification_tables(verification, _MORE))
        for note in verification.notes:
            say(f"Note: {note}")
        if unused:
            say(f"Note: the file was not run, so {', '.join(unused)} had no effect: {verification.runtime}")
    if not verification.passed:
        first, *others = verification.failures
        more = f" (and {len(others)} more)" if others else ""
        raise VerificationError(
            f"{model} on {target}, {_HOW[verification.how]}: {first}{more}; {verification.next_step}"
        )
    if not as_json:
        say(f"{model}: verified on {target} {_HOW[verification.how]}")


def _without_effect(target: str, runtime: Path | None, given: list[str]) -> list[str]:
    """Return the options on the run if the file is not run here. Only its rules are checked then.

    Raises:
        UsageError: Options on samples are given, and no samples.
        TargetError: See `find_target` and `find_environment`.
    """
    from converter.targets.catalog import find_target
    from converter.verification.environments import find_environment

    environment = find_environment(find_target(target), runtime)
    unused = [option for option in ("--limit", "--min-agreement") if option in given and "--data" not in given]
    if unused:
        raise UsageError(f"{' and '.join(unused)} would have no effect without --data; add --data, or leave it out")
    return given if isinstance(environment, str) else []


def _print(content: dict[str, Any]) -> None:
    """Print JSON whose texts name options, as messages do."""
    context = click.get_current_context()
    failures = [in_words_of(context, failure) for failure in content["failures"]]
    print_json(content | {"failures": failures, "next_step": in_words_of(context, content["next_step"])})
