"""The committed reference pages match the code, section by section. A new section may wait for `make reference`."""

from pathlib import Path

import pytest

from benchmarks.reference_pages import main, missing, outdated, pages
from benchmarks.shared_data import ROOT


@pytest.mark.parametrize("name", sorted(pages()))
def test_committed_sections_are_current(name: str) -> None:
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert outdated(committed, pages()[name]) == [], "run: make reference"


def without(page: str, heading: str) -> str:
    """The page without the section of a heading."""
    start = page.index(f"{heading}\n")
    return page[:start] + page[page.index("\n#", start) + 1 :]


def test_a_new_pass_need_not_be_on_the_page() -> None:
    page = pages()["passes.md"]
    assert outdated(without(page, "### `gptq`"), page) == []
    assert missing(without(page, "### `gptq`"), page) == ["### `gptq`"]


def test_a_pass_that_changed_or_is_gone_is_found() -> None:
    page = pages()["passes.md"]
    assert outdated(page.replace("| `percentile` | `99.99` |", "| `percentile` | `99.9` |"), page) == [
        "### `activation_ranges`"
    ]
    assert outdated(page, without(page, "### `gptq`")) == ["### `gptq`"]


def test_the_check_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0
    page = tmp_path / "passes.md"
    page.write_text(page.read_text(encoding="utf-8").replace("`damping`", "`dampness`"), encoding="utf-8")
    written = page.read_bytes()
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert "passes.md: outdated: `gptq`; run: make reference" in capsys.readouterr().out
    assert page.read_bytes() == written
