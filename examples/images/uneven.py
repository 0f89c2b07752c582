"""Owners that see a few digits each: which strategy copes?   python examples/images/uneven.py

MNIST dealt out by Dirichlet(0.1) label skew. Every strategy gets the same tuning budget, is tuned on other draws than it is
judged on, and is compared with FedAvg draw by draw: the same owners, first weights, rounds and passes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from data import load_mnist
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from runs import accuracy, deal, first_plan
from scipy.stats import t
from torch import nn

import smpc_fl as sf
from smpc_fl.learning.strategy import Strategy
from smpc_fl.nodes.demo.tables import Table

OWNERS, ALPHA, ROWS, UNSEEN = 10, 0.1, 2_000, 1_000
EPOCHS, ROUNDS, SEEDS = 5, 15, 5
TUNING_SEED = 1_000


def network() -> nn.Module:
    """Logistic regression, on which both papers show how their method fares: float32[n, 1, 28, 28] -> ten logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


Setting = tuple[Strategy, float]
"""And the owners' learning rate."""
BUDGET: dict[str, list[Setting]] = {  # six settings each
    "FedAvg": [(sf.FedAvg(), lr) for lr in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)],
    "FedProx": [(sf.FedProx(mu=mu), lr) for lr in (0.05, 0.1, 0.2) for mu in (0.01, 0.1)],
    "Scaffold": [(sf.Scaffold(), lr) for lr in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)],
    "FedAvgM": [(sf.FedAvgM(momentum=m), lr) for lr in (0.02, 0.05, 0.1) for m in (0.5, 0.9)],
    "FedAdam": [(sf.FedAdam(server_lr=s), lr) for lr in (0.02, 0.05, 0.1) for s in (0.01, 0.03)],
}


def judge(setting: Setting, train: Table, judged: Table | None, seed: int, rounds: int) -> tuple[float, float]:
    """(accuracy, bytes an owner uploads in a round) on one draw; `judged`: None for images of it that no owner has."""
    strategy, lr = setting
    owners, unseen = deal(train, OWNERS, alpha=ALPHA, rows=ROWS, unseen=UNSEEN, seed=seed)
    plan = first_plan(network, train, seed)
    run = sf.simulate(
        plan, owners, rounds=rounds, strategy=strategy, clip=100.0, max_samples=ROWS, seed=seed,
        local=sf.LocalTraining(epochs=EPOCHS, batch_size=32, lr=lr),
    ).wait()  # fmt: skip
    sent = np.mean([list(result.traffic.uploaded.values()) for result in run.rounds])
    return accuracy(plan.module_with(run.rounds[-1].model), judged or unseen), float(sent)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval by Student's t."""
    n = len(differences)
    return float(np.mean(differences)), float(t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))


def between(mean: float, half: float) -> str:
    return f"{100 * (mean - half):+.1f} to {100 * (mean + half):+.1f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Strategies on uneven data")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of a run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="draws, two at least (default: %(default)s)")
    parser.add_argument("--settings", type=int, default=6, help="settings that each tries (default: %(default)s)")
    parser.add_argument("--strategies", nargs="+", choices=list(BUDGET), default=list(BUDGET), help="FedAvg among them")
    parser.add_argument("--output", type=Path, default=Path("example-output"), help="folder (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    console, (train, test) = Console(), load_mnist()
    found: dict[str, dict[str, object]] = {}
    better: list[str] = []
    scores: dict[str, list[float]] = {}
    grid = Grid(box=SIMPLE_HEAD)
    for name in ("strategy", "chosen", "accuracy", "minus FedAvg", "95 %", "kB"):
        grid.add_column(name, justify="left" if name in ("strategy", "chosen") else "right", no_wrap=True)
    with console.status("starting") as status:
        for name, settings in ((name, BUDGET[name]) for name in BUDGET if name in {"FedAvg", *chosen.strategies}):
            status.update(f"{name}: tuning")
            tuned = [judge(item, train, None, TUNING_SEED, chosen.rounds)[0] for item in settings[: chosen.settings]]
            best = settings[int(np.argmax(tuned))]
            status.update(f"{name}: {chosen.seeds} draws")
            judged = [judge(best, train, test, seed, chosen.rounds) for seed in range(chosen.seeds)]
            scores[name] = [score for score, _ in judged]
            paired = [score - other for score, other in zip(scores[name], scores["FedAvg"], strict=True)]
            mean, half = interval(paired)
            if mean > half:
                better.append(name)
            found[name] = {"tuned": tuned, "chosen": repr(best), "scores": scores[name], "mean": mean, "half": half}
            compared = ("", "") if name == "FedAvg" else (f"{100 * mean:+.1f}", between(mean, half))
            kilobytes = f"{judged[0][1] / 1e3:.1f}"
            grid.add_row(name, said(best), f"{np.mean(scores[name]):.3f}", *compared, kilobytes)
    console.print(grid)
    console.print(f"Better than FedAvg, with 95 % confidence: {', '.join(better) or 'none'}.", highlight=False)
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "uneven.json").write_text(json.dumps(found, indent=2) + "\n")


def said(setting: Setting) -> str:
    strategy, lr = setting
    own = {"mu", "momentum"} | ({"server_lr"} if isinstance(strategy, sf.FedAdam) else set())
    return ", ".join([f"lr {lr:g}", *(f"{n} {getattr(strategy, n):g}" for n in sorted(own) if hasattr(strategy, n))])


if __name__ == "__main__":
    main()
