"""`python -m converter` is `convert-onnx`."""

from converter.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
