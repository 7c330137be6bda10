"""`python -m converter` is `convert-onnx`."""

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point; Ctrl-C while the libraries load is no traceback either."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
    try:
        from converter.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted\n")
        sys.exit(130)


def _leave(*_: object) -> None:
    """End the process at once: nothing is open yet, and an exception would hit a library that is being loaded."""
    os.write(2, b"Interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
