"""The partition into blocks: every node once and in order, cut where only one tensor is alive."""

import onnx
import pytest

pytest.importorskip("torch")

from converter.calibration.segments import Segment, cut
from converter.learn.rounding.blocks import blocks, join, sole_boundaries
from tests.support.networks import branches, prepared, resnet, shape_branch


def segments(proto: onnx.ModelProto) -> list[Segment]:
    model = prepared(proto)
    return cut(model.graph, model.layers())


def sizes(actual: list[Segment]) -> dict[str, int]:
    return {name: 1 + index for index, name in sole_boundaries(actual).items()}


@pytest.mark.parametrize("proto", [resnet(), branches(), shape_branch()], ids=["resnet", "branches", "shape_branch"])
@pytest.mark.parametrize("most", [1, 2, 4, 100])
def test_blocks_are_a_partition_in_order(proto: onnx.ModelProto, most: int) -> None:
    actual = segments(proto)
    parts = [join(block) for block in blocks(actual, sizes(actual), most)]
    assert [node for part in parts for node in part.nodes] == [node for segment in actual for node in segment.nodes]


def test_a_residual_block_stays_together() -> None:
    actual = segments(resnet())
    together = {join(block).nodes for block in blocks(actual, sizes(actual), 2)}
    assert any({"block.conv1", "block.conv2", "block_add"} <= set(nodes) for nodes in together)
    assert all(len({"stem", "block.conv1"} & set(nodes)) < 2 for nodes in together)


def test_no_block_has_more_layers_than_asked_for() -> None:
    actual = segments(resnet())
    layers = {segment.layer for segment in actual if segment.layer}
    for most in (1, 2, 3):
        assert all(len(layers & set(join(block).nodes)) <= most for block in blocks(actual, sizes(actual), most))


def test_a_joined_segment_reads_and_writes_what_is_left() -> None:
    actual = segments(resnet())
    whole = join(actual)
    assert whole.inputs == ("x",)
    assert whole.outputs == ()
    assert whole.layer == "stem"
    first = next(index for index, segment in enumerate(actual) if segment.layer == "block.conv1")
    block = join(actual[first : first + 2])
    assert len(block.inputs) == 1
    assert "pooled" in block.released
    assert len(block.outputs) == 1
