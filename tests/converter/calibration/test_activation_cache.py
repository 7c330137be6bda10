"""The cache of activations: in memory up to a limit, and in files beyond it."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from converter.calibration.activation_cache import ActivationCache
from passes.errors import OutputError

LARGE = 1 << 15  # float32 numbers: 128 KiB, more than what always stays in memory


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def array(seed: int, count: int = LARGE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count, dtype=np.float32)


def test_gives_back_every_batch_of_every_stream() -> None:
    with ActivationCache(1 << 30) as cache:
        for batch in range(3):
            cache.append("float", "t", array(batch))
            cache.append("quantized", "t", array(10 + batch))
        for batch in range(3):
            np.testing.assert_array_equal(cache.get("float", "t", batch), array(batch))
            np.testing.assert_array_equal(cache.get("quantized", "t", batch), array(10 + batch))
        assert cache.spilled == 0


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.float64])
def test_a_file_holds_the_same_bits(folder: Path, dtype: type[np.generic]) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 1 << 10, 1 << 8)).astype(dtype)
    with ActivationCache(0) as cache:
        cache.append("float", "t", values)
        actual = cache.get("float", "t", 0)
        assert cache.spilled == 1
        assert not isinstance(actual, list)
        assert (actual.dtype, actual.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(actual, values)
        assert len(list(folder.rglob("*.bin"))) == 1
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("folder")
def test_only_what_is_past_the_budget_goes_to_files() -> None:
    with ActivationCache(2 * LARGE * 4) as cache:
        for batch in range(5):
            cache.append("float", "t", array(batch))
        assert cache.spilled == 3
        for batch in range(5):
            np.testing.assert_array_equal(cache.get("float", "t", batch), array(batch))


def test_small_arrays_stay_in_memory(folder: Path) -> None:
    with ActivationCache(0) as cache:
        cache.append("float", "shape", np.array([1, 2]))
        cache.append("float", "scalar", np.array(3.0))
        assert cache.spilled == 0
    assert not list(folder.iterdir())


def test_release_makes_room_and_removes_files(folder: Path) -> None:
    with ActivationCache(LARGE * 4) as cache:
        cache.append("float", "a", array(0))
        cache.append("float", "a", array(1))
        assert len(list(folder.rglob("*.bin"))) == 1
        cache.release("float", "a")
        assert not list(folder.rglob("*.bin"))
        cache.append("float", "b", array(2))
        assert cache.spilled == 1, "the memory was not given back"
        with pytest.raises(KeyError):
            cache.get("float", "a", 0)
        cache.release("float", "never seen")


@pytest.mark.usefixtures("folder")
def test_released_files_do_not_clash_with_later_ones() -> None:
    with ActivationCache(0) as cache:
        cache.append("float", "a", array(0))
        cache.append("float", "b", array(1))
        cache.release("float", "a")
        cache.append("float", "c", array(2))
        np.testing.assert_array_equal(cache.get("float", "b", 0), array(1))
        np.testing.assert_array_equal(cache.get("float", "c", 0), array(2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_leaves_no_file_when_it_is_interrupted(folder: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with ActivationCache(0) as cache:
            cache.append("float", "a", array(0))
            assert list(folder.iterdir())
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(folder.iterdir())


def test_a_disk_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(OutputError, match=r"cannot write 131072 bytes .* \(`limit=`\) or set TMPDIR"),
        ActivationCache(0) as cache,
    ):
        cache.append("float", "a", array(0))
