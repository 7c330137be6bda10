"""Progress without a terminal: a line when work ends, and one from time to time."""

import io
import time

import pytest

from converter.report.progress import progress_bars, progress_lines


def test_work_that_took_long_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_lines(every=1000, short=0) as update:
        for done in (1, 2, 3):
            update("calibrating", done, 3)
        update("gptq", 1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("calibrating: 3 of 3 in ")


def test_short_work_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_lines(every=1000, short=1000) as update:
        update("calibrating", 3, 3)
    assert capsys.readouterr().err == ""


def printed(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """What is printed to stderr until these words come, or until half a minute has passed."""
    end, text = time.monotonic() + 30, ""
    while words not in text and time.monotonic() < end:
        time.sleep(0.02)
        text += capsys.readouterr().err
    return text


def test_long_work_says_how_far_it_is_and_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_lines(every=0.02, short=1000) as update:
        update("gptq\x1b[2J", 1, 4)
        text = printed(capsys, "left")
    assert "1 of 4 in " in text
    assert "left" in text
    assert "\x1b" not in text


def test_silence_between_two_kinds_of_work_is_broken_too(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_lines(every=0.02, short=1000) as update:
        update("gptq", 4, 4)
        text = printed(capsys, "gptq ended")
    assert "working for " in text
    assert "since gptq ended" in text


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(quiet=True) as update:
        update("gptq", 4, 4)
    assert capsys.readouterr() == ("", "")


def test_a_closed_stderr_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    for stream in (None, Closed()):
        monkeypatch.setattr("sys.stderr", stream)
        with progress_lines(every=0.01, short=0) as update:
            update("gptq", 4, 4)
            time.sleep(0.05)
