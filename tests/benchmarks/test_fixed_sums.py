"""What `--deterministic` costs, on a few samples."""

import pytest

from benchmarks.fixed_sums import bound, main


def test_the_bound() -> None:
    assert bound(0.0, 16) == 1
    assert bound(0.5, 2) == pytest.approx(4 / 3)  # half of the work takes twice as long
    assert bound(1.0, 16) == pytest.approx(16)


@pytest.mark.slow
def test_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--samples", "8", "--pairs", "0"]) == 0
    assert 1 <= int(capsys.readouterr().out.split("%")[0]) <= 80
