"""Learned blocks on disk: a stopped run goes on at its block, and what is damaged is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converter import Recipe, Settings, convert  # noqa: E402
from converter.cache.folder import Cache  # noqa: E402
from converter.cache.steps import codes_digest  # noqa: E402
from converter.learn.learning import learn_rounding  # noqa: E402
from converter.learn.rounding import refine  # noqa: E402
from converter.learn.rounding.rounding import learn  # noqa: E402
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.base import LayerPass  # noqa: E402
from passes.errors import DataError  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.numerics.sparsity import Pruned  # noqa: E402
from passes.report import PassReport  # noqa: E402
from passes.weights.gptq import Gptq  # noqa: E402
from passes.weights.learned_rounding import LearnedRounding  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import dataset, images, quantize, quiet, resnet  # noqa: E402
from tests.support.quantized_state import same  # noqa: E402

X = images(64, 3, 12, 12)
SETTINGS = LearnedRounding(steps=8, batch=16, layers_per_block=1)


class Stopped(Exception):
    """Stands for a kill."""


def learned(cache: Cache, solver: LayerPass | None, progress: Any = quiet) -> tuple[Model, PassReport]:
    model = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    report = learn_rounding(
        model,
        SETTINGS,
        dataset(model, X),
        progress,
        solver=solver,
        memory_budget=DEFAULT_MEMORY_BUDGET,
        seed=0,
        kept=cache,
    )
    return model, report


def stop_after(blocks: int) -> Callable[[str, int, int], None]:
    def progress(_what: str, done: int, _total: int) -> None:
        if done == blocks:
            raise Stopped

    return progress


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, {"model": "resnet"})


@pytest.mark.parametrize("solver", [Gptq(bits=2), None], ids=["solves again", "does not solve again"])
def test_a_stopped_run_goes_on_at_its_block(
    solver: LayerPass | None, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, expected = learned(Cache(tmp_path / "other", {}), solver)
    assert expected.changed
    with pytest.raises(Stopped):
        learned(cache, solver, stop_after(3))
    blocks: list[int] = []

    def counted(*arguments: Any) -> Any:
        blocks.append(1)
        return learn(*arguments)

    monkeypatch.setattr(refine, "learn", counted)
    model, report = learned(cache, solver)
    total = len(list((tmp_path / "other").glob("*/block-*.npz")))
    assert 0 < len(blocks) <= total - 3
    assert same(model, undisturbed)
    assert report.changed == expected.changed
    assert report.skipped == expected.skipped
    for name, exact in undisturbed.float_weights.items():
        np.testing.assert_array_equal(model.float_weights[name].stored, exact.stored)
    blocks.clear()
    assert same(learned(cache, solver)[0], undisturbed)
    assert not blocks


def test_a_damaged_block_is_refused(cache: Cache) -> None:
    learned(cache, Gptq(bits=2))
    assert cache.folder is not None
    cache.store("block-0001", {"form": np.array('{"tuple": [3]}')})
    with pytest.raises(DataError, match=r"block-0001\.npz is no learned block; delete it to learn the block again"):
        learned(cache, Gptq(bits=2))


def test_a_block_without_its_layers_is_refused(cache: Cache) -> None:
    learned(cache, Gptq(bits=2))
    assert cache.folder is not None
    for path in cache.folder.glob("layer-*.npz"):
        path.unlink()
    with pytest.raises(DataError, match="has no state of layer"):
        learned(cache, Gptq(bits=2))


def test_a_second_conversion_learns_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("r", "", (Normalise(), ActivationRanges(), Gptq(bits=2), SETTINGS))
    settings = Settings(cache=tmp_path / "cache")
    first = convert(resnet(), X, recipe=recipe, settings=settings)
    monkeypatch.setattr(refine, "learn", lambda *_: pytest.fail("it learns again"))
    second = convert(resnet(), X, recipe=recipe, settings=settings)
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_the_digest_of_codes_knows_codes_grids_and_removed_weights() -> None:
    model = quantize(resnet(), Rtn(bits=2), X)
    name, held = next(iter(model.quantized.items()))
    digests = {codes_digest(model)}
    for changed in (
        replace(held, codes=held.codes ^ 1),
        replace(held, grid=replace(held.grid, bits=3)),
        replace(held, pruned=Pruned(np.ones(held.codes.shape, bool), "unstructured")),
    ):
        model.quantized[name] = changed
        digests.add(codes_digest(model))
    assert len(digests) == 4
