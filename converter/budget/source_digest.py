"""Which code a measurement was made with: this package's version says little between two releases."""

import hashlib
from pathlib import Path

__all__ = ["PACKAGES", "source_digest"]

_ROOT = Path(__file__).parents[2]
PACKAGES = (_ROOT / "converter", _ROOT / "passes")


def source_digest(packages: tuple[Path, ...] = PACKAGES) -> str:
    """A digest of every module's place and text; the same wherever the packages are installed."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            for part in (path.relative_to(package.parent).as_posix().encode(), path.read_bytes()):
                digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
