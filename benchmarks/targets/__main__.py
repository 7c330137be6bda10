"""Files for every target, run on the execution providers that an ordinary machine can have.

`convert-onnx targets setup` installs them in build/targets.

python -m benchmarks.targets measure [NAME ...]   ResNet-18, MobileNetV2 and EfficientNet-Lite0 on them
python -m benchmarks.targets page                 a page in headless Chromium classifies an image
python -m benchmarks.targets snippets             programs in Python, C++ and JavaScript run files; see make snippets.
                                                  --images 24: also on so many JPEG files of the shared data
python -m benchmarks.targets qnn-context          a context binary for Qualcomm's HTP, and what it saves
python -m benchmarks.targets conformance          every recipe, target and graph of the zoo; see docs/conformance.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.shared_data import ROOT, MissingData
from benchmarks.targets import conformance, measure, page, qnn_context, snippets
from benchmarks.targets.programs import LANGUAGES
from passes.errors import ConvertError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The result is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.targets", description="Files on their execution providers.")
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="networks on every provider")
    measuring.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(measure.NETWORKS)}; default all")
    measuring.add_argument("--images", type=int, default=200, metavar="N", help="run on each (default 200)")
    commands.add_parser("page", help="a page in headless Chromium")
    programs = commands.add_parser("snippets", help="programs that run a file, in every language that can be run")
    programs.add_argument("--languages", nargs="+", choices=LANGUAGES, default=[], help="default all")
    programs.add_argument("--images", type=int, default=0, metavar="N", help="also N files of imagenet_sample")
    commands.add_parser("qnn-context", help="a context binary for HTP")
    suite = commands.add_parser("conformance", help="recipes x targets x zoo")
    suite.add_argument("--only", default="", metavar="PREFIX", help="graphs whose names begin so; printed, not written")
    suite.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    options = parser.parse_args(arguments)
    for name in getattr(options, "names", ()):
        if name not in measure.NETWORKS:
            parser.error(f"nothing is named {name!r}; there are: {', '.join(measure.NETWORKS)}")
    try:
        if options.command == "measure":
            return measure.main(options.names or list(measure.NETWORKS), options.images)
        if options.command == "page":
            return page.main()
        if options.command == "snippets":
            return snippets.main(options.languages, options.images)
        if options.command == "qnn-context":
            return qnn_context.main()
        out: Path | None = None if options.only else ROOT / "docs" / "conformance.md"
        return conformance.main(options.only, out, options.jobs)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
