"""Sums on one thread while a deterministic conversion runs, and on as many as before afterwards."""

import sys

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import converter
from converter.pipeline.fixed_sums import fixed_sums
from tests.support.models import images, small_cnn


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(("wanted", "inside"), [(True, {1}), (False, {2})])
def test_blas_has_one_thread_if_wanted(wanted: bool, inside: set[int]) -> None:
    with threadpool_limits(2, user_api="blas"):
        with fixed_sums(wanted, learns=False):
            assert blas_threads() == inside
        assert blas_threads() == {2}


@pytest.mark.parametrize(("learns", "inside"), [(True, 1), (False, 2)])
def test_torch_has_one_thread_if_it_learns(learns: bool, inside: int) -> None:
    torch = pytest.importorskip("torch")
    before, seen = torch.get_num_threads(), []

    def fails() -> None:
        with fixed_sums(True, learns=learns):
            seen.append(torch.get_num_threads())
            raise KeyError

    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError):
            fails()
        assert [*seen, torch.get_num_threads()] == [inside, 2]
    finally:
        torch.set_num_threads(before)


def test_torch_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with fixed_sums(True, learns=True):
        assert blas_threads() == {1}


@pytest.mark.parametrize("deterministic", [True, False])
def test_every_pass_of_a_conversion_runs_in_it(deterministic: bool) -> None:
    seen = set()

    def progress(*_: object) -> None:
        seen.update(blas_threads())

    settings = converter.Settings(limit=16, deterministic=deterministic)
    preprocess = converter.Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    given = {"settings": settings, "preprocess": preprocess, "progress": progress}
    with threadpool_limits(2, user_api="blas"):
        converter.convert(small_cnn(), images(), recipe="int4", **given)  # type: ignore[arg-type]
        converter.convert_within(small_cnn(), images(), converter.Budget(max_bytes=10**6), **given)  # type: ignore[arg-type]
        converter.sensitivity(small_cnn(), images(), samples=4, **given)  # type: ignore[arg-type]
        assert blas_threads() == {2}
    assert seen == {1 if deterministic else 2}
