"""Operators of a library: it is compiled here, without onnxruntime's header, which its package does not have."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import converter
from passes.errors import ModelError, UsageError
from passes.numerics.error import sqnr_db
from tests.support import command_line
from tests.support.models import make_model
from tests.support.networks import images, random, run

SOURCE = """
#include <stddef.h>
#include <stdint.h>
typedef void* (*Function)();
typedef struct { const Function* (*api)(uint32_t); const char* (*version)(void); } Base;
static const Function* api;
typedef struct Op {
  uint32_t version;
  void* (*create)(const struct Op*, const void*, const void*);
  const char* (*name)(const struct Op*);
  const char* (*provider)(const struct Op*);
  int (*input_type)(const struct Op*, size_t);
  size_t (*inputs)(const struct Op*);
  int (*output_type)(const struct Op*, size_t);
  size_t (*outputs)(const struct Op*);
  void (*compute)(void*, void*);
  void (*destroy)(void*);
  int (*input_kind)(const struct Op*, size_t);
  int (*output_kind)(const struct Op*, size_t);
  void* later[32];
} Op;
static void* create(const Op* op, const void* a, const void* i) { return (void*)op; }
static const char* name(const Op* op) { return "Twice"; }
static const char* provider(const Op* op) { return NULL; }
static int type(const Op* op, size_t i) { return 1; }
static size_t one(const Op* op) { return 1; }
static int required(const Op* op, size_t i) { return 0; }
static void destroy(void* kernel) {}
/* The numbers are places in OrtApi: it only ever grows at its end. */
static void compute(void* kernel, void* context) {
  void *x, *y, *info; float *a, *b; size_t rank, count; int64_t dims[8];
  api[90](context, (size_t)0, &x);
  api[65](x, &info); api[61](info, &rank); api[62](info, dims, rank); api[64](info, &count);
  api[91](context, (size_t)0, dims, rank, &y);
  api[51](x, &a); api[51](y, &b);
  for (size_t i = 0; i < count; i++) b[i] = 2 * a[i];
}
static const Op twice = {8, create, name, provider, type, one, type, one, compute, destroy, required, required};
void* RegisterCustomOps(void* options, const Base* base) {
  void* domain;
  api = base->api(1);
  api[26]("test.custom", &domain);
  api[27](domain, &twice);
  return api[28](options, domain);
}
"""
node = helper.make_node


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("library") / "libtwice.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(path)], input=SOURCE, text=True, check=True
    )
    return path


def model() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="first"),
        node("Twice", ["a"], ["b"], name="twice", domain="test.custom"),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "w1"], ["y"], name="second"),
    ]
    weights: dict[str, np.ndarray] = {"w0": random(16, 3, 3, 3) / 5, "w1": random(8, 16, 3, 3) / 12}
    made = make_model(nodes, weights, inputs={"x": ["n", 3, 10, 10]}, outputs={"y": ["n", 8, 6, 6]}, opset=13)
    made.opset_import.append(helper.make_opsetid("test.custom", 1))
    return made


def plain() -> onnx.ModelProto:
    """The same without the library."""
    made = model()
    made.graph.node[1].CopyFrom(node("Add", ["a", "a"], ["b"], name="twice"))
    return made


@pytest.mark.parametrize("recipe", ["int8", "int8-gptq", "int4", "int4-weight-only"])
def test_a_model_with_operators_of_a_library_is_converted(library: Path, recipe: str) -> None:
    data = images(32, 3, 10, 10)
    with converter.custom_ops(library):
        result = converter.convert(model(), data, recipe=recipe)
        found = run_with(library, result.model, data)
        expected = run_with(library, model(), data)
    assert [layer.name for layer in result.layers if layer.bits < 32] == ["first", "second"]
    same = converter.convert(plain(), data, recipe=recipe)
    assert sqnr_db(expected, found) > sqnr_db(run(plain(), data)[0], run(same.model, data)[0]) - 1


def run_with(library: Path, model: onnx.ModelProto, data: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on every processor
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"x": data})[0]
    return output


def test_the_command_line_passes_libraries_on(library: Path, tmp_path: Path) -> None:
    source, data, output = (str(tmp_path / name) for name in ("model.onnx", "data.npz", "out.onnx"))
    onnx.save_model(model(), source)
    np.savez(data, x=images(32, 3, 10, 10))
    given = ("--custom-ops", str(library))
    refused = command_line.run("convert", source, "-o", output, "--calibration", data)
    assert refused.exit_code == 1
    assert (
        "onnxruntime has no Twice of domain 'test.custom'; name the library that has it with --custom-ops"
        in refused.output
    )
    for command in (
        ("convert", source, "-o", output, "--calibration", data),
        ("evaluate", source, output, "--data", data),
        ("compare", source, output, "--data", data),
        ("verify", output, "--reference", source, "--data", data, "--target", "cpu"),
        ("inspect", output),
    ):
        done = command_line.run(*command, *given)
        assert done.exit_code == 0, done.output


def test_operators_without_their_library_are_refused_at_once() -> None:
    with pytest.raises(
        ModelError, match=r"no Twice of domain 'test.custom'; name the library that has it with `custom_ops=`"
    ):
        converter.convert(model(), images(32, 3, 10, 10))


def test_operators_of_onnxruntime_extensions_need_its_library() -> None:
    """Its domain is ai.onnx.contrib, but onnxruntime does not have it."""
    made = model()
    made.graph.node[1].domain = "ai.onnx.contrib"
    with pytest.raises(ModelError, match=r"no Twice of domain 'ai.onnx.contrib'"):
        converter.convert(made, images(32, 3, 10, 10))


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "libother.so"
    with pytest.raises(UsageError, match=r"libother.so`: no such file"), converter.custom_ops(other):
        pass
    other.write_bytes(b"text")
    with pytest.raises(UsageError, match="is no library of operators for onnxruntime"), converter.custom_ops(other):
        pass
