"""The committed reference pages match the code."""

import pytest

from benchmarks.reference_pages import pages
from benchmarks.shared_data import ROOT


@pytest.mark.parametrize("name", sorted(pages()))
def test_reference_pages_are_current(name: str) -> None:
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert committed == pages()[name], "run: make reference"
