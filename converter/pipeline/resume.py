"""Check early that a checkpoint belongs to this training.

The start of a training is known only after the passes before it, which take minutes.
`converter.learn.training.checkpoint` compares it then. But model, data and recipe determine the start, so this module
refuses a checkpoint of another training at once.
"""

import contextlib
import hashlib
import json
from pathlib import Path

import onnx

from converter.data.dataset import Dataset
from converter.learn.learning import require_own
from converter.learn.training_file import TrainingFile
from converter.model_io.lock import owned
from converter.model_io.sizes import model_digest
from converter.pipeline.images import Images
from converter.recipes.recipe import Recipe
from converter.recipes.toml import recipe_values

__all__ = ["own_checkpoint", "training_file"]


def own_checkpoint(path: str | Path | None) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from the file for the state of a training in a `with` block.

    Raises:
        OutputError: Another process uses the file.
    """
    return contextlib.nullcontext() if path is None else owned(Path(path))


def training_file(
    path: str | Path | None, model: onnx.ModelProto, recipe: Recipe, target: str, images: Images
) -> TrainingFile | None:
    """Return the file for the state of the training. None if no state is written.

    Raises:
        UsageError: The file exists but is no checkpoint, or is one of another training.
        QuantizationError: The file exists but torch is not installed.
    """
    if path is None:
        return None
    facts = {
        "model": model_digest(model),
        "passes": [
            {name: value for name, value in step.items() if name != "device"}
            for step in recipe_values(recipe)["passes"]
        ],
        "seed": recipe.seed,
        "target": target,
        "images": [_described(data) for data in (images.calibration, images.training)],
    }
    file = TrainingFile(Path(path), hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())
    require_own(file)
    return file


def _described(data: Dataset | None) -> dict[str, object]:
    """Return the description of the images without their location."""
    return {} if data is None else {name: fact for name, fact in data.describe().items() if name != "source"}
