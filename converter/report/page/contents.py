"""Sections of the page, in order. Each is a function of the facts that returns None if it has nothing to show."""

from collections.abc import Callable, Mapping
from typing import Any

from converter.report.page.section import Section
from converter.report.page.sections.activations import activations
from converter.report.page.sections.attempts import attempts
from converter.report.page.sections.bits import bits
from converter.report.page.sections.cost import cost
from converter.report.page.sections.headline import headline
from converter.report.page.sections.layers import layers
from converter.report.page.sections.provenance import provenance
from converter.report.page.sections.searches import searches
from converter.report.page.sections.skipped import skipped
from converter.report.page.sections.speed import speed
from converter.report.page.sections.verdict import verdict
from converter.report.page.sections.weights import weights

__all__ = ["SECTIONS"]

SECTIONS: tuple[Callable[[Mapping[str, Any]], Section | None], ...] = (
    verdict,
    headline,
    attempts,
    bits,
    layers,
    weights,
    activations,
    searches,
    speed,
    skipped,
    cost,
    provenance,
)
