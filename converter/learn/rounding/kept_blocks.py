"""Blocks that have learned, kept on disk, so that a stopped conversion goes on at the block that it was learning."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from converter.cache.folder import Cache
from converter.cache.steps import restored
from converter.cache.stored_values import pack
from converter.calibration.solving import keep_layer, restore_layer
from converter.learn.rounding.rounding import Outcome
from passes.errors import DataError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.report import Change

__all__ = ["KeptBlock", "keep_block", "restore_block"]

_STATE = Change("state of a layer after its block has learned")


@dataclass(frozen=True)
class KeptBlock:
    """What became of a block.

    Attributes:
        outcome: Result of learning, or why the block did not learn.
        solved: Layers that were solved again before, and how.
        network_db: SQNR of the network after the block in dB, if it is measured after every block and has gained.
    """

    outcome: Outcome | str
    solved: Mapping[str, Change]
    network_db: float | None = None

    @property
    def learned(self) -> bool:
        """Whether the block changed by learning."""
        return isinstance(self.outcome, Outcome) and self.outcome.improved


def keep_block(model: Model, index: int, inside: Mapping[str, Linear], block: KeptBlock, cache: Cache) -> None:
    """Store a block and the present state of its layers.

    Args:
        model: The model.
        index: Number of the block.
        inside: Layers of the block by name.
        block: What became of it.
        cache: Cache of this pass on this model. It may store nothing.
    """
    if cache.folder is None:
        return
    if block.learned or block.solved:
        for layer in inside.values():
            keep_layer(model, [layer], _STATE, cache)
    outcome = block.outcome if isinstance(block.outcome, str) else astuple(block.outcome)
    solved = {name: (change.what, change.before_db, change.after_db) for name, change in block.solved.items()}
    cache.store(_stored_name(index), pack((outcome, solved, block.network_db)))


def restore_block(model: Model, index: int, inside: Mapping[str, Linear], cache: Cache) -> KeptBlock | None:
    """Write the stored state of a block's layers into the model. Return what became of the block, or None.

    Args:
        model: Changed in place.
        index, inside, cache: As for `keep_block`.

    Raises:
        DataError: What is stored is damaged.
    """
    stored = restored(cache, _stored_name(index))
    if stored is None:
        return None
    place = f"{cache.folder}/{_stored_name(index)}.npz"
    try:
        outcome, solved, network_db = stored
        changes = {name: Change(*parts) for name, parts in solved.items()}
        block = KeptBlock(outcome if isinstance(outcome, str) else Outcome(*outcome), changes, network_db)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{place} is no learned block; delete it to learn the block again") from error
    if block.learned or block.solved:
        for layer in inside.values():
            exact = model.float_weights[layer.name]
            if restore_layer(model, [layer], cache) is None:
                raise DataError(f"{place} has no state of layer {layer.name}; delete it to learn the block again")
            model.float_weights[layer.name] = exact  # a layer that is solved for the first time sets it
    return block


def _stored_name(index: int) -> str:
    return f"block-{index:04d}"
