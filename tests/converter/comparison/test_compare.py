"""compare: the error that each layer adds, rotated tensors, the worst images, and suggestions."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from converter.comparison.compare import compare
from converter.comparison.subgraphs import find_subgraphs
from converter.comparison.suggestion import suggest
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.model_io.load import read_whole_onnx
from converter.pipeline.convert import convert
from converter.recipes.builtin import find_recipe, stored_recipe
from passes.graph.exclude import Exclude
from passes.numerics.error import Likeness, sqnr_db
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.command_line import run
from tests.support.models import CLASSES, SIDE, make_model, save_images, small_cnn

DRAW = np.random.default_rng(0)
SAMPLES = ("--calibration", "calibration.npz")


def inverted_bottlenecks() -> onnx.ModelProto:
    """Two blocks expand -> project with a residual Add between layers that have no activation function."""
    constants, nodes, last = {}, [], "input"

    def layer(name: str, outputs: int, inputs: int, *, size: int = 1, relu: bool = False) -> str:
        nonlocal last
        shape = (outputs, inputs, size, size)
        constants[f"{name}.weight"] = DRAW.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(inputs * size))
        nodes.append(helper.make_node("Conv", [last, f"{name}.weight"], [name], name, pads=[size // 2] * 4))
        last = name
        if relu:
            nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"))
            last = f"{name}.relu"
        return last

    layer("stem", 16, 3, size=3, relu=True)
    start = layer("project0", 8, 16)
    layer("expand1", 24, 8, relu=True)
    layer("project1", 8, 24)
    nodes.append(helper.make_node("Add", [last, start], ["sum"], "add"))
    last = "sum"
    layer("expand2", 24, 8, relu=True)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pool"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight"], ["output"], "fc", transB=1))
    constants["fc.weight"] = DRAW.standard_normal((CLASSES, 24), dtype=np.float32)
    return make_model(nodes, constants, inputs={"input": ["n", 3, SIDE, SIDE]}, outputs={"output": ["n", CLASSES]})


def spoilt(factor: float = 20, layers: tuple[str, ...] = ("deep",)) -> onnx.ModelProto:
    """A network whose ``layers`` have weights ``factor`` times the others. Their input channel is always zero.

    A factor of 20 is too large for 4 bits but not for 8 bits. A factor of 2,000 is too large for 8 bits.
    """
    shapes = {"stem": (8, 3, 3, 3), **dict.fromkeys(layers, (8, 8, 3, 3)), "fc": (CLASSES, 8)}
    constants = {}
    nodes = []
    last = "input"
    for name, shape in shapes.items():
        weight = DRAW.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        constants[f"{name}.weight"] = weight
        if name == "fc":
            continue
        weight[0] = 0
        if name in layers:
            weight[1:, 0] = factor * np.abs(weight).max()
        nodes += [
            helper.make_node("Conv", [last, f"{name}.weight"], [name], name, pads=[1] * 4),
            helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"),
        ]
        last = f"{name}.relu"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["output"], "fc", transB=1),
    ]
    return make_model(nodes, constants, inputs={"input": ["n", 3, SIDE, SIDE]}, outputs={"output": ["n", CLASSES]})


@pytest.fixture
def dataset() -> Dataset:
    x = np.random.default_rng(3).standard_normal((24, 3, SIDE, SIDE), dtype=np.float32)
    return load_data(x, input_specs(small_cnn()))


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_likeness_has_the_cosine_of_all_batches_together() -> None:
    left, right = DRAW.standard_normal((2, 5, 7))
    whole = Likeness()
    for start in (0, 2):
        whole.update(left[start : start + 2], right[start : start + 2])
    whole.update(left[4:], right[4:])
    assert whole.cosine == pytest.approx((left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right), rel=1e-12)
    assert whole.db == pytest.approx(sqnr_db(left, right), rel=1e-12)
    scaled = Likeness()
    scaled.update(left, left / 2)
    assert (round(scaled.cosine, 12), round(scaled.db, 3)) == (1.0, 6.021)
    nothing = Likeness()
    nothing.update(left, left * 0)
    assert nothing.cosine == 0


def test_a_subgraph_is_what_lies_between_two_cuts() -> None:
    graph = small_cnn().graph
    subgraphs = find_subgraphs(graph, ["relu", "sum", "output"])
    assert {tensor: (subgraph.reads, subgraph.layers) for tensor, subgraph in subgraphs.items()} == {
        "relu": ((), ("stem",)),
        "sum": (("relu",), ("deep",)),
        "output": (("sum",), ("up", "fc")),
    }
    assert [graph.node[index].name for index in subgraphs["sum"].nodes] == ["deep", "add"]


@pytest.mark.parametrize("batch", ["n", 3])
def test_an_error_is_added_by_one_layer_and_passed_on_by_the_others(
    batch: str | int, tmp_path: Path, dataset: Dataset
) -> None:
    """One weight is changed by hand. All later tensors are wrong, but only one layer introduces an error."""
    model = small_cnn()
    for value in (model.graph.input[0], model.graph.output[0]):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        setattr(dim, "dim_value" if batch == 3 else "dim_param", batch)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = next(tensor for tensor in other.graph.initializer if tensor.name == "deep.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(0.9), "deep.weight"))
    rows = {row.layer: row for row in compare(model, saved(other, tmp_path / "other.onnx"), dataset).layers}
    assert rows["stem"].introduced_db == rows["stem"].sqnr_db == np.inf
    assert rows["deep"].introduced_db == pytest.approx(rows["deep"].sqnr_db, abs=1e-4)
    assert rows["deep"].introduced_db < 40
    assert rows["deep"].layers == ("deep",)
    for name in ("add", "up", "fc"):
        assert rows[name].introduced_db > 100 > rows[name].sqnr_db
    assert rows["fc"].cosine < 1


def test_rotated_tensors_are_distinguished_from_wrong_ones(tmp_path: Path, dataset: Dataset) -> None:
    """The recipe int4 rotates tensors between layers without an activation function. The recipe int8 rotates none."""
    model = inverted_bottlenecks()
    x = np.random.default_rng(4).standard_normal((64, 3, SIDE, SIDE), dtype=np.float32)
    comparisons = {}
    for recipe in ("int4", "int8"):
        result = convert(model, x, recipe=recipe)
        rotated = {name for report in result.passes if report.name == "rotate" for name in report.changed}
        comparisons[recipe] = compare(model, saved(result.model, tmp_path / f"{recipe}.onnx"), dataset)
        assert bool(rotated) == (recipe == "int4")
    assert set(comparisons["int4"].transformed) == {"project0", "project1", "sum"}
    assert comparisons["int8"].transformed == ()
    expand = next(row for row in comparisons["int4"].layers if row.layer == "expand2.relu")
    assert expand.layers == ("project0", "project1", "expand2"), "all layers between tensors with the same meaning"
    assert min(row.sqnr_db for row in comparisons["int4"].layers) > 8


def test_the_worst_images_come_with_their_names(tmp_path: Path) -> None:
    """One image is 100 times brighter than all calibration images."""
    model = small_cnn()
    result = convert(
        model, np.random.default_rng(5).standard_normal((32, 3, SIDE, SIDE), dtype=np.float32), recipe="int8"
    )
    path = saved(result.model, tmp_path / "q.onnx")
    x = np.random.default_rng(6).standard_normal((30, 3, SIDE, SIDE), dtype=np.float32)
    x[7] *= 100
    data = load_data((x, np.arange(30) % CLASSES), input_specs(model)).select(np.arange(2, 30))
    comparison = compare(model, path, data)
    assert comparison.worst[0].image == "7"
    assert comparison.worst[0].label == 7 % CLASSES
    assert len(comparison.worst) == 5
    values = [error.sqnr_db for error in comparison.worst]
    assert values == sorted(values)
    scores = np.asarray(onnx.reference.ReferenceEvaluator(model).run(None, {"input": x[7:8]}))
    assert comparison.worst[0].expected == int(scores.argmax())


def test_the_layer_to_blame_is_found_and_named(tmp_path: Path, dataset: Dataset) -> None:
    model = spoilt()
    reference = saved(model, tmp_path / "float.onnx")
    x = np.random.default_rng(7).standard_normal((64, 3, SIDE, SIDE), dtype=np.float32)
    path = saved(convert(model, x, recipe="int8", bits={"deep": 4}).model, tmp_path / "q.onnx")
    before = compare(reference, path, dataset)
    suggestion = suggest(reference, path, before, dataset)
    assert (suggestion.exclude, suggestion.bits) == ((), {"deep": 8})
    assert suggestion.trials[0].layers == ("deep",)
    assert len(suggestion.trials) == 3
    fixed = saved(convert(model, x, recipe="int8").model, tmp_path / "fixed.onnx")
    gained = compare(reference, fixed, dataset).sqnr_db - before.sqnr_db
    assert 10 < gained < suggestion.gain_db + 0.5, "the suggestion states the largest possible gain"


def test_a_layer_at_8_bits_is_suggested_to_be_left_in_float(tmp_path: Path, dataset: Dataset) -> None:
    model = spoilt(2000)
    reference = saved(model, tmp_path / "float.onnx")
    x = np.random.default_rng(7).standard_normal((64, 3, SIDE, SIDE), dtype=np.float32)
    path = saved(convert(model, x, recipe="int8").model, tmp_path / "q.onnx")
    before = compare(reference, path, dataset)
    suggestion = suggest(reference, path, before, dataset)
    assert (suggestion.exclude, suggestion.bits) == (("deep",), {})
    fixed = saved(convert(model, x, recipe="int8", exclude=suggestion.exclude).model, tmp_path / "fixed.onnx")
    assert compare(reference, fixed, dataset).sqnr_db > before.sqnr_db + suggestion.gain_db - 1


def test_layers_that_spoil_the_scores_together_get_no_suggestion(tmp_path: Path, dataset: Dataset) -> None:
    """With either of them in float, the error of the other remains."""
    model = spoilt(layers=("deep", "deeper"))
    reference = saved(model, tmp_path / "float.onnx")
    x = np.random.default_rng(7).standard_normal((64, 3, SIDE, SIDE), dtype=np.float32)
    path = saved(convert(model, x, recipe="int8", bits={"deep": 4, "deeper": 4}).model, tmp_path / "q.onnx")
    suggestion = suggest(reference, path, compare(reference, path, dataset), dataset)
    assert (suggestion.exclude, suggestion.bits) == ((), None)
    assert "raises the SQNR by at most 0." in suggestion.why


def test_a_model_without_quantized_layers_gets_no_suggestion(tmp_path: Path, dataset: Dataset) -> None:
    path = saved(small_cnn(), tmp_path / "float.onnx")
    suggestion = suggest(path, path, compare(path, path, dataset), dataset)
    assert (suggestion.exclude, suggestion.bits, suggestion.why) == ((), None, f"{path} has no quantized layer")


def test_models_in_the_wrong_order_are_noticed(tmp_path: Path, dataset: Dataset) -> None:
    reference = saved(small_cnn(), tmp_path / "float.onnx")
    x = np.random.default_rng(7).standard_normal((32, 3, SIDE, SIDE), dtype=np.float32)
    path = saved(convert(small_cnn(), x, recipe="int8").model, tmp_path / "q.onnx")
    suggestion = suggest(path, reference, compare(path, reference, dataset), dataset)
    assert suggestion.why == f"{reference} has no quantized layer, but {path} has; give the float model first"


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt_files(folder: Path) -> Path:
    """Write float.onnx, and q.onnx with a layer that 4 bits spoil."""
    onnx.save(spoilt(), "float.onnx")
    text = (
        '[[passes]]\npass = "normalise"\n[[passes]]\npass = "activation_ranges"\n[[passes]]\npass = "rtn"\nbits = 4\n'
    )
    Path("mine.toml").write_text(text)
    arguments = ("--calibration", "calibration.npz", "--mean", "0.5", "--std", "0.25", "--quiet")
    assert run("convert", "float.onnx", "-o", "q.onnx", "--recipe", "mine.toml", *arguments).exit_code == 0
    return folder


def test_the_suggested_command_applies_the_suggestion(spoilt_files: Path) -> None:
    shown = run("compare", "float.onnx", "q.onnx", "--data", "unseen.npz")
    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.stdout.splitlines() if line.strip().startswith("convert-onnx convert")).split()
    assert line[-2:] == ["--bits", "deep=8"]
    given = {"OUT.onnx": "fixed.onnx", "DATA": "calibration.npz"}
    done = run(*[given.get(word, word) for word in line[1:]])
    assert done.exit_code == 0, done.output
    recipe = stored_recipe(read_whole_onnx(spoilt_files / "fixed.onnx"), "fixed.onnx")
    assert recipe.passes[-1] == Rtn(bits=4, layer_bits={"deep": 8})


def test_act_writes_the_model_and_shows_the_gain(spoilt_files: Path) -> None:
    done = run("compare", "float.onnx", "q.onnx", "--data", "unseen.npz", "--act", "fixed.onnx", *SAMPLES)
    assert done.exit_code == 0, done.output
    assert "Wrote fixed.onnx: +" in done.stdout
    assert (spoilt_files / "fixed.onnx").is_file()
    content = json.loads(
        run("compare", "float.onnx", "q.onnx", "--data", "unseen.npz", "--act", "fixed.onnx", *SAMPLES, "--json").stdout
    )
    assert content["suggestion"]["options"] == ["--bits", "deep=8"]
    assert content["act"]["written"]
    assert content["act"]["gain_db"] > 1
    assert [model["model"] for model in content["act"]["models"]] == ["float.onnx", "q.onnx", "fixed.onnx"]


def test_act_on_a_model_that_needs_nothing_writes_nothing(folder: Path) -> None:
    arguments = ("--calibration", "calibration.npz", "--mean", "0.5", "--std", "0.25", "--quiet")
    assert run("convert", "m.onnx", "-o", "q.onnx", *arguments).exit_code == 0
    done = run("compare", "m.onnx", "q.onnx", "--data", "unseen.npz", "--act", "fixed.onnx", *SAMPLES)
    assert done.exit_code == 4, done.output
    assert "No suggestion: the worst output has 30 dB" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        "There is no suggestion; fixed.onnx was not written. `convert --min-sq"
    )
    assert not (folder / "fixed.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--act", "q.onnx"), "--act q.onnx would overwrite MODEL q.onnx", id="onto_the_model"),
        pytest.param(("--act", "calibration.npz"), "would overwrite --calibration", id="onto_the_data"),
        pytest.param(("--calibration", "calibration.npz"), "is for --act", id="calibration_alone"),
    ],
)
def test_what_act_refuses(spoilt_files: Path, arguments: tuple[str, ...], words: str) -> None:
    if "--act" in arguments:
        arguments = (*arguments, "--calibration", "calibration.npz")
    before = {path: path.read_bytes() for path in spoilt_files.iterdir() if path.is_file()}
    done = run("compare", "float.onnx", "q.onnx", "--data", "unseen.npz", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert before == {path: path.read_bytes() for path in spoilt_files.iterdir() if path.is_file()}


def test_act_needs_a_recipe_and_the_calibration_data(spoilt_files: Path) -> None:
    done = run("compare", "float.onnx", "m.onnx", "--data", "unseen.npz", "--act", "fixed.onnx", *SAMPLES)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "m.onnx cannot be converted again: it holds no recipe, so `convert` did not write it" in done.stderr
    (spoilt_files / "calibration.npz").rename("elsewhere.npz")
    command = ("compare", "float.onnx", "q.onnx", "--data", "unseen.npz", "--act", "fixed.onnx")
    done = run(*command)
    assert (done.exit_code, done.stdout) == (2, ""), "before any work"
    assert "q.onnx has the digest of its calibration data, not the data; give them with --calibration" in done.stderr
    nowhere = run(*command, "--calibration", "nowhere.npz")
    assert (nowhere.exit_code, nowhere.stdout) == (1, ""), "before any work"
    assert nowhere.stderr == "Error: --calibration nowhere.npz: no such file or folder\n"
    assert run(*command, "--calibration", "elsewhere.npz").exit_code == 0
    save_images(Path("others.npz"), 32, seed=9)
    done = run(*command, "--calibration", "others.npz")
    assert done.exit_code == 0, done.output
    assert "others.npz are not the samples that q.onnx was calibrated on" in done.stderr


def test_exclude_and_bits_of_convert(folder: Path) -> None:
    arguments = ("--recipe", "int4", "--calibration", "calibration.npz", "--mean", "0.5", "--std", "0.25", "--quiet")
    more = ("--exclude", "stem", "--exclude", "up", "--bits", "fc=8")
    assert run("convert", "m.onnx", "-o", "q.onnx", *arguments, *more).exit_code == 0
    recipe = find_recipe(folder / "q.onnx")
    assert Exclude(("stem", "up")) in recipe.passes
    assert Gptq(bits=4, block_size=8, two_level=True, layer_bits={"fc": 8}) in recipe.passes
    layers = {layer["name"]: layer for layer in json.loads(run("inspect", "q.onnx", "--json").stdout)["layers"]}
    assert {name: layer["weight_bits"] for name, layer in layers.items()} == {"stem": 32, "deep": 4, "up": 32, "fc": 8}
    second = run("convert", "m.onnx", "-o", "p.onnx", *arguments[2:], "--recipe", "q.onnx", "--bits", "stem=8")
    assert second.exit_code == 0, second.output
    assert Exclude(("up",)) in find_recipe("p.onnx").passes, "bits for a layer override its exclusion"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bits", "fc"), "'fc' is not a layer and its bits, 2 to 8, such as conv1=8"),
        (("--bits", "fc=9"), "'fc=9' is not a layer"),
        (("--bits", "fc=8", "--exclude", "fc"), "--exclude fc leaves a layer in float that --bits fc=8 quantizes"),
        (("--recipe", "m.onnx"), "m.onnx holds no recipe"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_refused_layer_options(arguments: tuple[str, ...], words: str) -> None:
    done = run("convert", "m.onnx", "-o", "q.onnx", "--calibration", "calibration.npz", *arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
