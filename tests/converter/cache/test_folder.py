import os
from pathlib import Path

import numpy as np
import pytest

from converter.cache.folder import Cache
from passes.errors import DataError, OutputError


def test_arrays_are_loaded_under_the_same_facts_only(tmp_path: Path) -> None:
    first = Cache(tmp_path / "cache", {"model": "a"})
    first.store("attempt", {"bytes": np.array(3), "errors": np.eye(2)})
    same, other = Cache(tmp_path / "cache", {"model": "a"}), Cache(tmp_path / "cache", {"model": "b"})
    arrays = same.load("attempt")
    assert arrays is not None
    np.testing.assert_array_equal(arrays["errors"], np.eye(2))
    assert same.load("effect-0000") is None
    assert other.load("attempt") is None


def test_without_a_folder_nothing_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = Cache(None, {})
    cache.store("attempt", {"bytes": np.array(3)})
    assert cache.load("attempt") is None
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    cache = Cache(tmp_path, {})
    cache.store("attempt", {"bytes": np.arange(100)})
    (path,) = tmp_path.rglob("attempt.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"attempt.npz is damaged; delete it"):
        cache.load("attempt")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        cache = Cache(tmp_path / "searches", {})
        cache.store("attempt", {"bytes": np.array(3)})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "searches").rglob("*") if path.is_file()}
    assert modes == {"about.json": 0o640, "attempt.npz": 0o640}
    assert (tmp_path / "searches").stat().st_mode & 0o777 == 0o750


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match=r"`cache=.*cache'` cannot be used"):
        Cache(tmp_path / "cache", {})


@pytest.mark.parametrize(
    ("failure", "seen", "message"),
    [
        (OSError(28, "No space left on device"), OutputError, "cannot be written: No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["disk_full", "interrupted"],
)
def test_a_write_that_fails_leaves_the_old_file(
    failure: BaseException,
    seen: type[BaseException],
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = Cache(tmp_path, {})
    cache.store("attempt", {"bytes": np.array(3)})
    before = sorted(tmp_path.rglob("*"))

    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(seen, match=message):
        cache.store("attempt", {"bytes": np.array(4)})
    assert sorted(tmp_path.rglob("*")) == before
    arrays = cache.load("attempt")
    assert arrays is not None
    assert arrays["bytes"] == 3
