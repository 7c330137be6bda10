"""Names that nothing else has."""

__all__ = ["fresh_name"]


def fresh_name(name: str, taken: set[str]) -> str:
    """Return `name`, or `name_1`, `name_2`, ... if it is taken. The result is added to `taken`."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
