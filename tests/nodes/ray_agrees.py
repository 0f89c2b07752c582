"""Run by `test_simulate_ray.py` in a process of its own: a small Ray on this machine, and the same run on threads.

Prints one line of JSON: what both came to."""

from __future__ import annotations

import json
import os
import sys

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}  # nothing into the home, nothing out

import numpy as np
from sample_federation import FEATURES, linear_plan

import smpc_fl as sf
from smpc_fl.nodes.simulation.run import Progress


def made(number: int) -> dict[str, object]:
    if number == 7:
        raise RuntimeError("this owner fails")
    generator = np.random.default_rng(number)
    x = generator.normal(size=(6, FEATURES)).astype(np.float32)
    return {"x": x, "y": (x.sum(1) > 0).astype(np.int64)}


def main() -> None:
    plan, evaluation = linear_plan(), sf.Evaluation(fraction=0.3)
    told: list[Progress] = []
    on_ray = sf.simulate(
        plan, (40, made), rounds=2, seed=5, evaluation=evaluation, executor="ray", workers=2, progress=told.append
    ).wait()  # fmt: skip
    on_threads = sf.simulate(plan, (40, made), rounds=2, seed=5, evaluation=evaluation, executor="threads").wait()
    print(
        json.dumps(
            {
                "equal": np.array_equal(on_ray.vector, on_threads.vector),
                "metrics": on_ray.rounds[-1].metrics == on_threads.rounds[-1].metrics,
                "missing": on_ray.rounds[-1].missing,
                "told": [one.done for one in told if (one.round, one.purpose) == (1, "train")],
                "stopped": "ray" in sys.modules and not sys.modules["ray"].is_initialized(),
            }
        )
    )


if __name__ == "__main__":
    main()
