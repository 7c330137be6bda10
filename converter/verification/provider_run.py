"""Runs a file on a target's provider: gives it to an environment's session script, and reads the script's answer."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.model_io.operator_libraries import libraries
from converter.model_io.scratch import scratch_folder
from converter.targets.target import Target
from converter.verification.environments import Environment
from passes.errors import TargetError

__all__ = ["ProviderRun", "run_on_provider"]

_TIMEOUT = 3600.0


@dataclass(frozen=True)
class ProviderRun:
    """Result of running a file on a provider.

    Attributes:
        runtime: Name and version of the runtime. It is known even if the file does not load.
        error: Why the file does not load or run. Empty if it does.
        nodes: Number of nodes that the provider took. None if the runtime does not tell.
        left: ``name (operator)`` of each node that another provider took.
        outputs: Outputs by name, [rows, ...].
    """

    runtime: str
    error: str
    nodes: int | None
    left: tuple[str, ...]
    outputs: Mapping[str, NDArray[Any]]


def run_on_provider(
    model: Path, target: Target, environment: Environment, feeds: Mapping[str, NDArray[Any]], batch: int
) -> ProviderRun:
    """Run every row of the feeds, ``batch`` rows at a time.

    Raises:
        TargetError: The environment is not a Python or node installation with the provider.
    """
    with scratch_folder() as folder:
        ready = folder / "ready"
        job: dict[str, Any] = {"model": str(model.absolute()), "batch": batch, "ready": str(ready)}
        if environment.package is None:
            np.savez(folder / "feeds.npz", **dict(feeds))  # type: ignore[arg-type]
            job |= {"provider": target.provider, "feeds": str(folder / "feeds.npz"), "outputs": str(folder / "out.npz")}
            job["custom_ops"] = libraries()
        else:
            job |= {"package": environment.package, "folder": str(folder), "feeds": _raw(feeds, folder)}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        answer = _answer(environment, folder / "job.json")
        if not ready.exists():
            reason = answer.get("reason") or answer.get("error") or "it does not run the session script"
            raise TargetError(f"{environment.name} cannot run target {target.name}: {reason}; {environment.mend}")
        runtime = ", ".join(filter(None, (answer.get("runtime"), answer.get("package"))))
        if "error" in answer:
            return ProviderRun(runtime, answer["error"], None, (), {})
        if environment.package is None:
            with np.load(folder / "out.npz") as file:
                outputs = {key: file[key] for key in file.files}
        else:
            outputs = {output["name"]: _array(output) for output in answer["outputs"]}
    left = tuple(f"{node['name']} ({node['op']})" for node in answer["left"])
    return ProviderRun(runtime, "", answer["nodes"], left, outputs)


def _answer(environment: Environment, job: Path) -> dict[str, Any]:
    """The answer of the session script. A crash, or a script that prints nothing, becomes an answer with an error."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [*environment.command, str(job)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=_TIMEOUT,
            env=variables,
            cwd=job.parent,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"{command[0]}: {error}"}
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        answer = None
    if isinstance(answer, dict):
        return answer
    last_line = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    return {"error": f"{command[0]} ended with {done.returncode} and said: {last_line}"}


def _raw(feeds: Mapping[str, NDArray[Any]], folder: Path) -> list[dict[str, Any]]:
    described = []
    for index, (name, array) in enumerate(feeds.items()):
        file = folder / f"input{index}.bin"
        file.write_bytes(np.ascontiguousarray(array).tobytes())
        described.append({"name": name, "type": array.dtype.name, "dims": list(array.shape), "file": str(file)})
    return described


def _array(output: Mapping[str, Any]) -> NDArray[Any]:
    """An output of the script. Rows of all batches follow each other, so the first dimension follows from the size."""
    values = np.fromfile(output["file"], dtype=np.dtype(output["type"]))
    return values.reshape(-1, *output["dims"][1:]) if output["dims"] else values
