"""Digest of this package's source code, because its version does not change between two releases."""

import hashlib
from pathlib import Path

__all__ = ["PACKAGES", "source_digest"]

_ROOT = Path(__file__).parents[2]
PACKAGES = (_ROOT / "converter", _ROOT / "passes")


def source_digest(packages: tuple[Path, ...] = PACKAGES) -> str:
    """Return a digest of the path and text of every module. It does not depend on where the packages are installed."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            for part in (path.relative_to(package.parent).as_posix().encode(), path.read_bytes()):
                digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
