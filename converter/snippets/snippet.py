"""The lines of a program that loads one file and runs it on one image."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from converter.snippets.android import android
from converter.snippets.cpp import cpp
from converter.snippets.csharp import csharp
from converter.snippets.facts import Facts, facts_of
from converter.snippets.javascript import javascript
from converter.snippets.node import node
from converter.snippets.python import python
from converter.snippets.rust import rust
from passes.arguments import require_type
from passes.errors import UsageError

__all__ = ["LANGUAGES", "snippet"]

LANGUAGES: Mapping[str, Callable[[Facts], str]] = MappingProxyType(
    {
        "python": python,
        "cpp": cpp,
        "js": javascript,
        "node": node,
        "csharp": csharp,
        "android": android,
        "rust": rust,
    }
)
"""What writes the program, by the name of the language."""

_NO_FLOAT16 = frozenset({"csharp", "android", "rust"})  # these programs make no float16


def snippet(model: str | Path, language: str = "python") -> str:
    """Return a program that loads a file, prepares one image as the file needs it, and prints the result.

    Sizes, mean, std, layout and the order of colours are those in the file, and so is the target's provider. The
    program in Python prepares images exactly as `Preprocess` does. The others use the filter of their own library.

    Args:
        model: Path of an .onnx file.
        language: "python", "cpp", "js" (a page), "node", "csharp", "android" or "rust".

    Raises:
        ModelError: The file cannot be read.
        UsageError: There is no such language, or the file takes images of any size and stores none, or several at once.
            A file with inputs or outputs in float16 has no program in C#, Kotlin and Rust.
    """
    require_type("model", model, (str, Path), "the path of an .onnx file")
    if language not in LANGUAGES:
        raise UsageError(f"`language={language!r}` is none of {', '.join(LANGUAGES)}")
    facts = facts_of(Path(model))
    if language in _NO_FLOAT16:
        _require_no_float16(facts, language)
    return LANGUAGES[language](facts)


def _require_no_float16(facts: Facts, language: str) -> None:
    others = ", ".join(each for each in LANGUAGES if each not in _NO_FLOAT16)
    if "float16" in {facts.output_type, *(str(spec.dtype) for spec in facts.inputs)}:
        raise UsageError(
            f"{facts.file}: has inputs or outputs in float16, which programs in {language} do not make; use {others}"
        )
