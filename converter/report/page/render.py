"""Report as one self-contained HTML page: text, tables and charts.

A section is a module of `converter.report.page.contents` and a template of the same name. Charts are Vega-Lite
specifications. The browser draws them with the libraries that the page contains.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.display import numbers, words
from converter.report.page.contents import SECTIONS
from converter.report.page.names import shown
from converter.report.page.section import Section
from passes.errors import UsageError

if TYPE_CHECKING:
    import jinja2

__all__ = ["render", "render_page", "require_page"]

_NEEDED = {"jinja2": "jinja2", "vl_convert": "vl-convert-python"}
_ENTRY = "window.vegaEmbed = vegaEmbed;"  # page.js calls nothing else
_TEMPLATES = Path(__file__).with_name("templates")


def require_page(path: Path) -> None:
    """Check that the packages for an .html report are installed.

    Args:
        path: Report file, for the message.

    Raises:
        UsageError: A package is missing. The message names the packages and how to install them.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        packages = " and ".join(missing)
        raise UsageError(
            f"{path}: an HTML report needs {packages}; install convert-onnx[report], or write a .json report"
        )


def render(facts: Mapping[str, Any]) -> str:
    """Render the page from the values of `converter.report.facts.report_facts`."""
    facts = shown(facts)
    sections = [section for build in SECTIONS if (section := build(facts)) is not None]
    return render_page("page.html", facts, sections, facts["versions"]["convert-onnx"])


def render_page(template: str, facts: Mapping[str, Any], sections: Sequence[Section], version: str) -> str:
    """Render a page with its sections.

    Args:
        template: Name of a template that extends `frame.html`.
        facts: Values for the templates. Their texts are `shown`.
        sections: The sections, in order.
        version: Version of this package.
    """
    import vl_convert

    charts = {name: spec for section in sections for name, spec in section.charts.items()}
    page: str = (
        _environment()
        .get_template(template)
        .render(
            facts=facts,
            sections=sections,
            version=version,
            style=_text("page.css"),
            script=_text("page.js"),
            licenses=_text("licenses.txt"),
            library=_inside_script(vl_convert.javascript_bundle(_ENTRY)),
            charts=_data(charts),
        )
    )
    return page


def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: each for name in numbers.__all__ if callable(each := getattr(numbers, name))}
    environment.filters["samples"] = words.samples
    return environment


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _inside_script(code: str) -> str:
    """Escape JavaScript so that it cannot end the script element around it."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _data(values: Any) -> str:
    """Return JSON that is safe inside a script element."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
