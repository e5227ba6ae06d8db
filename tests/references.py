"""Files as PyPI's sbibm lays them out, with numbers that the tests know."""

import bz2

import numpy as np

from figures.simulators import OBSERVATIONS, TASKS


def written(folder, name, samples=7):
    """Write a task's observations, true parameters and reference samples; return the folder."""
    task = TASKS[name]
    for k in range(1, OBSERVATIONS + 1):
        home = folder / "sbibm" / "tasks" / (task.folder or name) / "files" / f"num_observation_{k}"
        home.mkdir(parents=True, exist_ok=True)
        theta = np.random.default_rng(k).random((samples, task.parameters)) / 10 + 0.1
        (home / task.file).write_bytes(table(np.full((1, task.outputs), float(k))))
        (home / "true_parameters.csv").write_bytes(table(theta[:1]))
        exact = bz2.compress(table(theta))
        (home / "reference_posterior_samples.csv.bz2").write_bytes(exact)
    return folder


def table(rows):
    lines = [",".join(f"c{i}" for i in range(rows.shape[1]))]
    lines += [",".join(map(repr, row.tolist())) for row in rows]
    return "\n".join(lines).encode()
