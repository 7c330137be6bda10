"""`python -m converter` is `convert-onnx`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point; Ctrl-C while the libraries load is no traceback either."""
    try:
        from converter.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
