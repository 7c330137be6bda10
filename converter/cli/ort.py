"""The command `ort`."""

from pathlib import Path
from typing import Literal

import click

import converter
from converter.cli import options
from converter.cli.context import print_json
from converter.cli.lines import say

__all__ = ["ort"]


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for the two files; by default, that of MODEL.",
)
@click.option(
    "--platform",
    type=click.Choice(["arm", "amd64"]),
    help="Processor whose optimizations are applied; by default, those that every processor has.",
)
@options.json
def ort(model: str, folder: Path | None, platform: Literal["arm", "amd64"] | None, as_json: bool) -> None:
    """Write MODEL in onnxruntime's own format, for a minimal build.

    NAME.ort has the graph that onnxruntime runs, with unpacked weights. NAME.required_operators.config has its
    operators, for `build.py --include_ops_by_config`. The file is loaded, and its outputs are compared with MODEL's.
    """
    written = converter.write_ort(model, folder, platform=platform)
    if as_json:
        print_json({**vars(written), "path": str(written.path), "config": str(written.config)})
        return
    say(f"{written.path}: {written.size:,} bytes ({Path(model).name}: {Path(model).stat().st_size:,})")
    say(f"{written.config}: {', '.join(written.operators)}")
    say(f"Outputs on noise: largest difference {written.difference:.2g} of the largest value")
