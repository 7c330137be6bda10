"""Last step of the commands that make a file: write the file and the reports, then print the tables.

All results are on the disk before anything is printed. So a closed pipe or a full terminal loses none of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.cli.lines import say
from converter.cli.messages import in_words_of

if TYPE_CHECKING:
    from converter.pipeline.result import Result

__all__ = ["finish"]


def finish(
    result: "Result", model: str, output: Path, reports: Sequence[Path], *, quiet: bool, verbose: bool = False
) -> None:
    """Save a result, write its reports and print its tables.

    Raises:
        OutputError: The file or a report cannot be written. The other reports are written, and the message names what
            is there.
    """
    from converter.model_io.open import is_factory
    from converter.model_io.sizes import serialized_bytes
    from converter.model_io.structure import model_bytes
    from converter.report import table
    from converter.report.facts import report_facts
    from converter.report.files import write_facts
    from converter.report.search import search_tables
    from converter.report.speed import speed_tables
    from passes.errors import ConvertError, OutputError

    before = serialized_bytes(result.reference) if is_factory(model) else model_bytes(Path(model))
    result.save(output)
    after = model_bytes(output)
    facts = report_facts(result, model=model, output=str(output), before=before, after=after) if reports else {}
    if reports:
        facts["verdict"]["advice"] = [_in_options(each) for each in facts["verdict"]["advice"]]
    written = [output]
    failures: list[Exception] = []
    for path in reports:
        try:
            write_facts(path, facts)
            written.append(path)
        except (ConvertError, OSError) as error:
            failures.append(error)
    extra = [*search_tables(result.search), *speed_tables(result.speed)]
    tables = [*table.conversion_tables(result, before, after, verbose=verbose), *extra]
    if not quiet:
        table.show(tables)
    elif result.metrics is not None:
        table.show(tables[:1])
    for line in () if quiet else (*result.learning, *(f"Table {line}" for line in result.embeddings)):
        say(line)
    if result.taken is not None:
        say(f"Channels: {result.taken.describe()}")
    if result.mending is not None:
        say(f"--min-sqnr {result.mending.aim_db:g}: {result.mending.describe()}")
    if result.float16 and not quiet:
        say(f"float16: {result.float16}")
    measured = "" if result.fidelity is None else result.fidelity.describe()
    line = f"Wrote {output} ({result.recipe.name}, {result.target}) in {result.seconds:.1f} s"
    say("; ".join(filter(None, (line, measured))))
    for path in written[1:]:
        say(f"Wrote {path}")
    verdict = result.verdict(before, after)
    for answer in verdict.lines()[: 3 if quiet else None]:
        say(_in_options(answer))
    for failure in failures:
        raise OutputError(f"{failure}; {', '.join(map(str, written))} {'is' if len(written) == 1 else 'are'} written")


def _in_options(message: str) -> str:
    """Return a message of the library in the options of the command."""
    return in_words_of(click.get_current_context(), message)
