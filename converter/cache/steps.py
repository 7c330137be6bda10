"""What the steps of a conversion found, by all that it depends on.

A step is looked up by a hash of the graph with its weights, the grids of activations, the samples and their
preprocessing, the fields of the pass that matter, the target, the seed, the versions and this package's own source. So
another recipe for the same model and samples finds what is the same, and a change of anything else finds nothing.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from converter.cache.folder import Cache
from converter.cache.stored_values import pack, unpack
from converter.data.dataset import Dataset
from converter.model_io.sizes import tensorwise_digest
from converter.qdq.floats import float_model
from passes.base import Pass
from passes.errors import DataError
from passes.ir.model import Model

__all__ = ["NO_CACHE", "StepCache", "codes_digest", "kept", "restored"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class StepCache:
    """Caches of the steps of one conversion.

    Attributes:
        folder: Folder of all caches. None: nothing is stored.
        facts: JSON values that every step depends on.
    """

    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, what: str, model: Model, data: Dataset, **facts: Any) -> Cache:
        """Return the cache of one step.

        Args:
            what: Name of the step.
            model: The model before the step. Only its graph counts, with its weights.
            data: The samples that the step sees.
            facts: What else the result depends on: numbers, texts, dataclasses such as passes, and collections of them.

        Raises:
            OutputError: The folder cannot be created.
        """
        if self.folder is None:
            return Cache(None, {})
        seen = {name: each for name, each in data.describe().items() if name not in {"source", "labels"}}
        graph = tensorwise_digest(float_model(model.graph))
        return Cache(self.folder, {"step": what, "graph": graph, "data": seen, **self.facts, **_json(facts)})


NO_CACHE = StepCache()
"""Stores nothing."""


def codes_digest(model: Model) -> str:
    """Return a digest of the codes, grids and removed weights of a model's layers."""
    digest = hashlib.sha256()
    for name, layer in sorted(model.quantized.items()):
        pruned = None if layer.pruned is None else layer.pruned.kept
        arrays = {"codes": layer.codes, **vars(layer.grid), "kept": pruned}
        for key, value in arrays.items():
            content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            digest.update(f"{name} {key} {len(content)} ".encode() + content)
    return digest.hexdigest()


def restored(cache: Cache, name: str) -> Any:
    """Return what the cache has under a name, or None.

    Raises:
        DataError: It is damaged.
    """
    arrays = cache.load(name)
    if arrays is None:
        return None
    try:
        return unpack(arrays)
    except ValueError as error:
        raise DataError(f"{cache.folder}/{name}.npz is damaged ({error}); delete it to compute it again") from error


def kept(cache: Cache, name: str, find: Callable[[], Value]) -> Value:
    """Return what the cache has under a name, or else find it and store it.

    Args:
        cache: The cache of the step.
        name: Name of the result.
        find: Finds the result, in a form that `converter.cache.stored_values` stores.

    Raises:
        DataError: The stored result is damaged.
    """
    found = restored(cache, name)
    if found is not None:
        return cast(Value, found)
    found = find()
    if cache.folder is not None:
        cache.store(name, pack(found))
    return found


def _json(value: Any) -> Any:
    """Return a value as JSON that is the same in every process. Sets are sorted, and arrays become lists."""
    if isinstance(value, Pass):
        return {"pass": value.name, **_json(vars(value))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json(vars(value))
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_json(each) for each in value), key=repr)
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
