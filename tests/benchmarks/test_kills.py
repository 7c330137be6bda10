"""`kill -9` at random moments: a sample of what `python -m benchmarks.kills` does."""

import subprocess
import sys

import pytest

from benchmarks.kills import JOBS


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("job", JOBS)
def test_a_kill_leaves_a_whole_file_or_none(job: str) -> None:
    """In a process of its own, since it forks: threads of this one would be missing in the children."""
    if job == "train":
        pytest.importorskip("torch")
    count = "1" if job == "int4" else "3"  # that of ResNet-20 takes longest
    command = [sys.executable, "-m", "benchmarks.kills", "--count", count, "--job", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 faults"), done.stdout + done.stderr
