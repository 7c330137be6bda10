"""The pages are true: every command and every piece of Python in the guide runs, links lead somewhere, and lines
are short.

A page's ```sh and ```python blocks run in order, in a folder with small stand-ins for the model and the photographs;
a ```toml or ```python block whose first line names a file is written to it.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper
from PIL import Image

from converter.cli.main import cli
from converter.data.preprocess import Preprocess
from converter.pipeline.convert import convert
from converter.pipeline.verdict.answer import QUESTIONS
from tests.support.models import make_model
from tests.support.recurrent_layers import stacked
from tests.support.task_models import TASKS

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
        *(ROOT / "docs").glob("*.md"),
        *(page for folder in ("design", "guide") for page in (ROOT / "docs" / folder).rglob("*.md")),
    ]
)
GUIDE_PAGES = sorted(GUIDE.rglob("*.md"))
SNIPPETS = [*GUIDE_PAGES, ROOT / "README.md"]
SLOW_PAGES = {"README.md", "budgets.md", "python.md", "quick-start.md", "sweeps.md", "training.md", "vit.md"}
TASK_PAGES = {
    "already-int8.md",
    "audio.md",
    "ci.md",
    "classifier.md",
    "deploy.md",
    "detector.md",
    "fp16.md",
    "ocr.md",
    "segmentation.md",
    "two-inputs.md",
    "vit.md",
    "without-torch.md",
}
MAX_LINE, MAX_README_LINES = 200, 120
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SEEN = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)
FACTORY = """
from torch import nn


def factory():
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), *head)
"""


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def stand_in() -> onnx.ModelProto:
    """stem -> depthwise -> pool -> classifier, on images of 224 x 224; coarse, to be quick."""
    draw = np.random.default_rng(0)
    shapes = {"stem": (8, 3, 8, 8), "deep": (8, 1, 3, 3), "classifier": (3, 8)}
    constants = {
        f"{name}.weight": draw.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("Conv", ["input", "stem.weight"], ["stem"], "stem", strides=[8, 8]),
        helper.make_node("Relu", ["stem"], ["relu"], "relu"),
        helper.make_node("Conv", ["relu", "deep.weight"], ["deep"], "deep", group=8),
        helper.make_node("GlobalAveragePool", ["deep"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "classifier.weight"], ["output"], "classifier", transB=1),
    ]
    return make_model(nodes, constants, inputs={"input": ["n", 3, 224, 224]}, outputs={"output": ["n", 3]})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages start from."""
    folder = tmp_path_factory.mktemp("guide")
    draw = np.random.default_rng(1)
    model = stand_in()
    onnx.save(model, folder / "model.onnx")
    onnx.save(stacked("LSTM"), folder / "lstm.onnx")
    (folder / "model.py").write_text(FACTORY)
    for name, count in (("photos", 36), ("validation/cat", 5), ("validation/dog", 5)):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            pixels = draw.integers(0, 256, (8, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((290, 260)).save(folder / name / f"{place}.jpg")
    demo = folder / "build" / "demo"
    demo.mkdir(parents=True)
    for name, count in (("calibration", 32), ("evaluation", 12)):
        np.savez(demo / f"{name}.npz", x=draw.integers(0, 256, (count, 224, 224, 3), dtype=np.uint8))
    onnx.save(model, demo / "float.onnx")
    for recipe, path in (
        ("int4", demo / "int4.onnx"),
        ("int8", folder / "model_int8.onnx"),
        ("int4", folder / "model_int4.onnx"),
    ):
        images = str(demo / "calibration.npz")
        convert(model, images, recipe=recipe, preprocess=SEEN).save(path)
    return folder


@pytest.fixture
def work(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(stage, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(block: str) -> list[list[str]]:
    """The commands of a shell block, as words."""
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.name in SLOW_PAGES else ()) for page in SNIPPETS],
    ids=label,
)
def test_every_snippet_runs(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())  # a script finds the files beside it
    if any("model.py:" in block or "convert-onnx train" in block for kind, block in blocks(page) if kind != "text"):
        pytest.importorskip("torch")
    if page.name in TASKS:
        TASKS[page.name](Path())
    printed = ""
    names: dict[str, object] = {"__name__": "guide"}
    for language, block in blocks(page):
        if language == "toml":
            found = re.match(r"# (\S+\.toml)\n", block)
            assert found is not None, "the first line of a recipe says what file it is"
            Path(found[1]).write_text(block, encoding="utf-8")
        elif language == "python":
            if (found := re.match(r"# (\S+\.py)\n", block)) is not None:
                Path(found[1]).write_text(block, encoding="utf-8")
                monkeypatch.delitem(sys.modules, Path(found[1]).stem, raising=False)  # that of another page
            exec(compile(block, page.name, "exec"), names)
        elif language == "sh":
            for words in commands(block):
                assert words[0] == "convert-onnx", f"{page.name}: only this tool's commands are run: {words}"
                done = CliRunner().invoke(cli, words[1:])
                good = {0, 4} if "--act" in words else {0}  # 4: no change helps, as in the small stand-ins
                assert done.exit_code in good, f"{page.name}: {shlex.join(words)}\n{done.output}"
                printed += done.output
        else:
            assert language == "text", f"{page.name}: a ```{language} block is not run"
    assert "Traceback" not in capsys.readouterr().out
    if page.parent.name == "tasks":
        assert all(question in printed for question in QUESTIONS.values()), f"{page.name} ends without a verdict"


def test_the_guide_has_what_it_promises() -> None:
    index = (GUIDE / "README.md").read_text(encoding="utf-8")
    pages = {page.relative_to(GUIDE).as_posix() for page in GUIDE_PAGES}
    assert pages - {"README.md"} == set(re.findall(r"\]\(([\w/-]+\.md)\)", index))
    assert {page.name for page in (GUIDE / "tasks").glob("*.md")} == TASK_PAGES
    run = [language for page in GUIDE_PAGES for language, _ in blocks(page)]
    assert run.count("sh") >= 15
    assert run.count("python") >= 6


def prose(page: Path) -> list[str]:
    """The lines of a page outside of its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8")).splitlines()


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name, as GitHub makes it from the heading's words."""
    headings = [line.lstrip("#").strip().lower() for line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose(page)))
    wrong = []
    for link in links:
        name, _, anchor = link.partition("#")
        other = page.parent / name if name else page
        if "://" not in link and not (other.exists() and (not anchor or anchor in anchors(other))):
            wrong.append(link)
    assert not wrong, f"{label(page)} links to nothing by: {', '.join(wrong)}"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_lines_of_prose_are_short(page: Path) -> None:
    long = [line for line in prose(page) if len(line) > MAX_LINE and not line.lstrip().startswith("|")]
    assert not long, f"{label(page)} has lines of more than {MAX_LINE} characters: {long}"


def test_the_readme_is_one_page() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES


def test_anchors_are_those_of_the_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Where something new goes\n```sh\n# a comment\n```\n## `keep`: kernels, and 8 bits\n")
    assert anchors(page) == {"where-something-new-goes", "keep-kernels-and-8-bits"}


def test_every_option_of_the_guide_is_explained() -> None:
    """What a page uses stands in the reference of commands."""
    known = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    used = {word for page in GUIDE_PAGES for word in re.findall(r"--[a-z][a-z-]+", page.read_text(encoding="utf-8"))}
    assert used
    assert {option for option in used if option not in known} <= {"--help"}
