"""Runs a file on a target's provider: gives it to an environment's session script, and reads the script's answer."""

import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
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
        outputs: Outputs of each run, by name. They are missing if the numbers do not fit the shapes.
    """

    runtime: str
    error: str
    nodes: int | None
    left: tuple[str, ...]
    outputs: Sequence[Mapping[str, NDArray[Any]]]


def run_on_provider(
    model: Path, target: Target, environment: Environment, runs: Sequence[Mapping[str, NDArray[Any]]]
) -> ProviderRun:
    """Run a model once for each of ``runs``, its inputs by name.

    Raises:
        TargetError: The environment is not a Python or node installation with the provider.
    """
    with scratch_folder() as folder:
        ready = folder / "ready"
        shapes = {key: [list(run[key].shape) for run in runs] for key in runs[0]}
        feeds = {key: np.concatenate([run[key].reshape(-1) for run in runs]) for key in runs[0]}
        job: dict[str, Any] = {"model": str(model.absolute()), "shapes": shapes, "ready": str(ready)}
        if environment.package is None:
            np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]
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
            return ProviderRun(runtime, answer["error"], None, (), ())
        if environment.package is None:
            with np.load(folder / "out.npz") as file:
                parts = {key: _cut(file[key], answer["shapes"][key]) for key in file.files}
        else:
            parts = {
                output["name"]: _cut(np.fromfile(output["file"], np.dtype(output["type"])), output["shapes"])
                for output in answer["outputs"]
            }
    outputs = [{key: each[index] for key, each in parts.items() if each is not None} for index in range(len(runs))]
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
        described.append({"name": name, "type": array.dtype.name, "file": str(file)})
    return described


def _cut(values: NDArray[Any], shapes: Sequence[Sequence[int]]) -> list[NDArray[Any]] | None:
    """Cut an output into those of each run. None if there are not as many numbers."""
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) != values.size:
        return None
    parts = np.split(values.reshape(-1), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
