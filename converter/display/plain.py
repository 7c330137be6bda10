"""Any value as one line of plain text: nothing in it is an instruction to a terminal.

Names of layers, files, recipes and classes come from a model or a user. They may hold escape sequences, newlines, or
marks that turn the direction of text. All of these are shown as `\\x1b`, `\\n` or `\\u202e`.
"""

import unicodedata

__all__ = ["LONGEST", "one_line", "shortened"]

LONGEST = 80
"""Characters of the longest name in a table."""

_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Co", "Zl", "Zp"])  # controls, directions, surrogates, private, line separators
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_JOINERS = "\u200c\u200d"  # part of words and signs in many scripts


def one_line(value: object) -> str:
    """Return a value as text in which every character is visible.

    >>> one_line("conv\\x1b[2J")
    'conv\\\\x1b[2J'
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def shortened(value: object, longest: int = LONGEST) -> str:
    """Return `one_line` with the middle left out if it is too long.

    >>> shortened("model/stage1/block2/conv3/weight", longest=20)
    'model/stag…v3/weight'
    """
    text = one_line(value)
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end]}…{text[-end:]}"


def _shown(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
