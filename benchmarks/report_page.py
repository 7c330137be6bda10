"""The HTML report in headless Chromium: its size, its loading time, and a picture of it.

    python -m benchmarks.report_page                          size and time of ResNet-50's report
    python -m benchmarks.report_page --picture docs/report.png

The picture shows the report of ResNet-20 on CIFAR-10. Chromium and the extra `dev` are needed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from benchmarks.random_resnet import random_images, random_network
from benchmarks.shared_data import RESNET20, MissingData, shared_file
from converter import convert, find_recipe, write_report
from converter.report.progress import progress_bars
from passes.scale_migration.smoothquant import SmoothQuant

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["Opened", "chromium", "open_page", "opened_page", "why_no_browser"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
_COLOURS = 64  # colours of a picture; the page has few
_MARGIN = 12  # pixels below the picture's last line
_DRAWN = ".chart svg.marks"


@dataclass(frozen=True)
class Opened:
    """A page that was opened: bytes of its file, seconds until its first chart is drawn, and problems."""

    size: int
    seconds: float
    problems: tuple[str, ...]


def why_no_browser() -> str:
    """Say what is missing to open a page. Empty if nothing is missing."""
    if not any(map(shutil.which, _BROWSERS)):
        return f"none of {', '.join(_BROWSERS)} is on the path; install Chromium"
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is not installed; install convert-onnx[dev]"
    return ""


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Start a headless browser and yield it.

    Raises:
        MissingData: There is no browser, or playwright is missing.
    """
    missing = why_no_browser()
    if missing:
        raise MissingData(missing)
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, _BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(
    browser: "Browser", path: Path, *, scheme: Literal["light", "dark"] = "light", width: int = 1200, height: int = 900
) -> "Iterator[tuple[Page, list[str]]]":
    """Yield the page when its first chart is drawn, and a growing list of its errors and network requests."""
    problems: list[str] = []
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
    try:
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda request: _note_request(request.url, problems))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(_DRAWN)
        yield page, problems
    finally:
        page.close()


def _note_request(address: str, problems: list[str]) -> None:
    if not address.startswith(("file:", "data:")):
        problems.append(f"request: {address}")


def open_page(browser: "Browser", path: Path, *, times: int = 3) -> Opened:
    """Open a page several times in a running browser. The fastest time counts."""
    seconds, problems = [], []
    for _ in range(times):
        started = time.perf_counter()
        with opened_page(browser, path) as (_, messages):
            seconds.append(time.perf_counter() - started)
        problems += messages
    return Opened(path.stat().st_size, min(seconds), tuple(problems))


def _resnet50_report(folder: Path) -> Path:
    """Write the report of a ResNet-50 with random weights at 64 pixels, including SmoothQuant's search."""
    searched = find_recipe("int8").with_pass(SmoothQuant(), "int8-smooth")
    with progress_bars() as progress:
        result = convert(
            random_network("resnet.py:resnet50", 64), random_images(16, 64), recipe=searched, progress=progress
        )
    path = folder / "report.html"
    write_report(result, path, model="resnet50", output="resnet50.onnx")
    return path


def _resnet20_report(folder: Path) -> Path:
    """Write the report of ResNet-20 on CIFAR-10.

    Raises:
        MissingData: The weights or the images are missing.
    """
    model = RESNET20.model()
    calibration, evaluation = (shared_file(name or "") for name in (RESNET20.calibration, RESNET20.evaluation))
    with chdir(calibration.parent), progress_bars() as progress:  # the report shows the names of the files
        result = convert(
            model,
            calibration.name,
            recipe="int4",
            evaluation=evaluation.name,
            preprocess=RESNET20.preprocess,
            progress=progress,
        )
    path = folder / "report.html"
    write_report(result, path, model="resnet20_cifar10.onnx", output="resnet20_int4.onnx")
    return path


def _take_picture(report: Path, picture: Path) -> None:
    """Save the top of the page at the width of a laptop's window, down to the caption of the first layer chart."""
    with chromium() as browser, opened_page(browser, report) as (page, _):
        last = page.locator("#layers figcaption").bounding_box()
        assert last is not None
        height = last["y"] + last["height"] + _MARGIN
        page.screenshot(path=picture, full_page=True, clip={"x": 0, "y": 0, "width": 1200, "height": height})
    with Image.open(picture) as shot:
        shot.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the report or take its picture. The result is 1 if something is missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.report_page", description="The HTML report in Chromium.")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="take a picture in place of measuring")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
            if options.picture is not None:
                _take_picture(_resnet20_report(Path(folder)), options.picture)
                print(f"Wrote {options.picture}")
                return 0
            report = _resnet50_report(Path(folder))
            with chromium() as browser:
                opened = open_page(browser, report)
    except MissingData as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"ResNet-50: {opened.size / 1e6:.2f} MB, first chart after {opened.seconds:.2f} s")
    for problem in opened.problems:
        print(problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
