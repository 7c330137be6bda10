"""Measurements are repeated if the code has changed."""

import shutil
from pathlib import Path

import pytest

from converter import Budget, Settings, convert_within
from converter.cache.source_digest import PACKAGES, source_digest
from tests.support.networks import images, wide


def test_any_change_of_a_module_changes_the_digest(tmp_path: Path) -> None:
    copies = tuple(
        Path(shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__")))
        for package in PACKAGES
    )
    first = source_digest()
    assert source_digest(copies) == first, "the digest does not depend on the folder of the package"
    numerics = tmp_path / "passes" / "numerics"
    seen = {first}
    (numerics / "gptq.py").write_text("changed")
    seen.add(source_digest(copies))
    (numerics / "gptq.py").rename(numerics / "other.py")
    seen.add(source_digest(copies))
    (tmp_path / "converter" / "pipeline" / "convert.py").unlink()
    seen.add(source_digest(copies))
    assert len(seen) == 4
    (tmp_path / "converter" / "notes.txt").touch()
    assert source_digest(copies) in seen


def test_another_digest_has_another_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for digest in ("old", "old", "new"):
        monkeypatch.setattr("converter.budget.candidate_builder.source_digest", lambda value=digest: value)
        convert_within(
            wide(), images(32, 3, 12, 12), Budget(max_bytes=100_000), settings=Settings(limit=24), cache=tmp_path
        )
        folders.append(sorted(path.parent for path in tmp_path.glob("*/attempt.npz")))
    assert folders[0] == folders[1]
    assert (len(folders[0]), len(folders[2])) == (1, 2)
