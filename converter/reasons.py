"""Other libraries' errors in one line of ours."""

__all__ = ["first_line"]


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, without the punctuation at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".;:") if lines else "no message"
