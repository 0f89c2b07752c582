"""Eight film clubs: how will a member like a film?   python examples/recommendations/train.py [--simulate]

Matrix factorisation (Koren, Bell, Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems") of MovieLens
ratings. What a club learns about its members never leaves it; what is learnt about the films is shared.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from ratings import Club, Ratings, clubs_of, load_ratings
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from torch import nn

import smpc_fl as sf
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.evaluation import evaluate
from smpc_fl.learning.metrics import layout_for, read_evaluation
from smpc_fl.learning.training import train_locally
from smpc_fl.nodes.training_run import Run

CLUBS, FACTORS = 8, 8
MIDDLE = 3.5
"""Stars that nobody and nothing in particular gets."""
OWN = ["members.*", "generosity.*"]
"""What a club keeps: vectors and mean opinions of its members."""
SETTINGS = [sf.LocalTraining(epochs=1, batch_size=64, lr=lr, weight_decay=5e-4) for lr in (1.0, 2.0, 0.5)]
ROUNDS = 20


class Factors(nn.Module):
    """int64[n, 2], (member, film) -> float32[n], stars: a member's vector times a film's, and both their mean opinions."""

    def __init__(self, members: int, films: int) -> None:
        super().__init__()
        self.members, self.films = nn.Embedding(members, FACTORS), nn.Embedding(films, FACTORS)
        self.generosity, self.quality = nn.Embedding(members, 1), nn.Embedding(films, 1)
        for table in (self.members, self.films):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.generosity, self.quality):
            nn.init.zeros_(table.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        member, film = x[:, 0], x[:, 1]
        taste = (self.members(member) * self.films(film)).sum(1)
        opinion = self.generosity(member) + self.quality(film)
        stars: torch.Tensor = MIDDLE + opinion.squeeze(1) + taste
        return stars


@dataclass(frozen=True)
class Result:
    """Root mean squared errors in stars, over all held-out ratings. `constant`: of naming everybody's mean."""

    federated: float
    pooled: float
    alone: float
    clubs: dict[str, float]
    """Of each club's own model on its own held-out ratings; `alone` is over all of these ratings together."""
    constant: float
    chosen: dict[str, str]
    uploaded: float
    """Bytes of a club in a round, evaluation included."""


Train = Callable[[sf.Plan, sf.LocalTraining, str, int], Run]
"""(plan, setting, "validation" or "test", split) -> the run, evaluated on these ratings."""


@contextmanager
def federation(splits: Sequence[Mapping[str, Club]], rounds: int, simulate: bool) -> Iterator[Train]:
    """Of processes, or simulated: the same models, bit for bit."""
    tables = {
        club: {
            f"{axis}{number}_{part}": getattr(getattr(split[club], part), axis)
            for number, split in enumerate(splits)
            for part in ("train", "validation", "test")
            for axis in ("x", "y")
        }
        for club in splits[0]
    }
    most = max(len(club.train.y) for split in splits for club in split.values())

    def options(setting: sf.LocalTraining, part: str, number: int) -> dict[str, object]:
        held = sf.Evaluation(inputs=f"x{number}_{part}", targets=f"y{number}_{part}")
        return {
            "inputs": f"x{number}_train", "targets": f"y{number}_train", "rounds": rounds, "local": setting,
            "private": OWN, "evaluation": held, "clip": 100.0, "max_samples": most, "seed": number,
        }  # fmt: skip

    if simulate:
        yield lambda plan, *what: sf.simulate(plan, tables, **options(*what))  # type: ignore[arg-type]
        return
    with sf.LocalFederation(owners=tables, aggregators=3, ledger="own") as fed:
        yield lambda plan, *what: fed.train(plan, **options(*what))  # type: ignore[arg-type]


def plan_for(members: int, films: int, number: int) -> sf.Plan:
    torch.manual_seed(number)
    return sf.Plan.from_module(
        Factors(members, films), "mse", example=(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4))
    )


def together(
    train: Train, plan: sf.Plan, settings: Sequence[sf.LocalTraining], number: int
) -> tuple[float, str, float]:
    """(RMSE, what was chosen, bytes). No party sees a member's vector, so the error, too, is a secure sum."""
    tried = []
    for setting in settings:
        losses = [result.metrics["val_loss"] for result in train(plan, setting, "validation", number)]
        tried.append((min(losses), losses.index(min(losses)), setting))
    _, best, setting = min(tried, key=lambda item: item[0])
    judged = list(train(plan, setting, "test", number))  # the same models once more
    bytes_a_round = float(np.mean([sum(r.traffic.uploaded.values()) / len(r.traffic.uploaded) for r in judged]))
    return math.sqrt(judged[best].metrics["val_loss"]), f"lr {setting.lr:g}, {best + 1} rounds", bytes_a_round


def apart(
    plan: sf.Plan, club: Club, settings: Sequence[sf.LocalTraining], rounds: int, number: int
) -> tuple[float, str]:
    """(RMSE, what was chosen) of as many passes over one club's ratings, or over everybody's, without a federation."""
    best, chosen, kept = math.inf, "", plan.initial
    for setting in settings:
        job = TrainJob(plan=plan.data, inputs="x", targets="y", rounds=rounds, local=setting, seed=bytes([number] * 16))
        model = plan.initial
        for done in range(1, rounds + 1):
            x, y = torch.from_numpy(club.train.x), torch.from_numpy(club.train.y)
            model = model + train_locally(plan, model, x, y, job, round_number=done, owner="harness").delta
            if (loss := error(plan, model, club.validation)) < best:
                best, chosen, kept = loss, f"lr {setting.lr:g}, {done} rounds", model
    return error(plan, kept, club.test), chosen


def error(plan: sf.Plan, model: np.ndarray[tuple[int], np.dtype[np.float32]], ratings: Ratings) -> float:
    mean, _ = evaluate(plan, model, torch.from_numpy(ratings.x), torch.from_numpy(ratings.y), 0)
    return math.sqrt(read_evaluation(mean, layout_for(plan.document, 0))["val_loss"])


def pool(clubs: Mapping[str, Club], members: int) -> Club:
    """All ratings in one place; members get numbers of their own."""

    def gather(part: str) -> Ratings:
        tables: list[Ratings] = [getattr(club, part) for club in clubs.values()]
        x = [table.x + np.array([place * members, 0]) for place, table in enumerate(tables)]
        return Ratings(np.concatenate(x), np.concatenate([table.y for table in tables]))

    return Club(gather("train"), gather("validation"), gather("test"))


def compare(
    train: Train, clubs: Mapping[str, Club], settings: Sequence[sf.LocalTraining], rounds: int, number: int
) -> Result:
    """All three ways on one split, with one tuning budget."""
    members = 1 + max(int(club.train.x[:, 0].max()) for club in clubs.values())
    everybody = pool(clubs, members)
    films = 1 + int(max(part.x[:, 1].max() for part in (everybody.train, everybody.validation, everybody.test)))
    plan, whole = plan_for(members, films, number), plan_for(members * len(clubs), films, number)
    federated, said, uploaded = together(train, plan, settings, number)
    pooled, said_pooled = apart(whole, everybody, settings, rounds, number)
    alone = {name: apart(plan, club, settings, rounds, number) for name, club in clubs.items()}
    squares = sum(alone[name][0] ** 2 * len(club.test.y) for name, club in clubs.items())
    return Result(
        federated=federated,
        pooled=pooled,
        alone=math.sqrt(squares / len(everybody.test.y)),
        clubs={name: value for name, (value, _) in alone.items()},
        constant=float(np.sqrt(np.mean((everybody.test.y - everybody.train.y.mean()) ** 2))),
        chosen={"federated": said, "pooled": said_pooled, **{name: chose for name, (_, chose) in alone.items()}},
        uploaded=uploaded,
    )


def show(console: Console, results: Sequence[Result], rounds: int, settings: int) -> None:
    grid = Grid(box=SIMPLE_HEAD, title=f"Error of a held-out rating; splits: {len(results)}, rounds: {rounds}")
    grid.add_column("", no_wrap=True)
    for name in ("RMSE, median", "range", "fed. minus it"):
        grid.add_column(name, justify="right", no_wrap=True)
    for way, name in {
        "federated": "federated", "pooled": "pooled", "alone": "local-only", "constant": "everybody's mean",
    }.items():  # fmt: skip
        values = [float(getattr(item, way)) for item in results]
        less = median(item.federated - value for item, value in zip(results, values, strict=True))
        grid.add_row(name, f"{median(values):.3f}", f"{min(values):.3f}…{max(values):.3f}", f"{less:+.3f}")
    console.print(grid)
    better = sum(item.federated < item.alone for item in results)
    uploaded = np.mean([item.uploaded for item in results]) / 1e3
    console.print(
        f"Settings tried by each way: {settings}. Better than local-only in {better} of {len(results)} splits. A club uploads "
        f"{uploaded:.1f} kB in a round.",
        highlight=False,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Film clubs predict ratings")
    parser.add_argument("--simulate", action="store_true", help="in this process, without nodes: the same models")
    parser.add_argument("--splits", type=int, default=3, help="divisions of the ratings (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of a run (default: %(default)s)")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="how many are tried (default: all)")
    parser.add_argument("--output", type=Path, default=Path("example-output"), help="folder (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console, ratings = Console(), load_ratings()
    splits = [clubs_of(*ratings, CLUBS, number=number) for number in range(chosen.splits)]
    with federation(splits, chosen.rounds, chosen.simulate) as train:
        results = [
            compare(train, clubs, SETTINGS[: chosen.settings], chosen.rounds, number)
            for number, clubs in enumerate(splits)
        ]
    show(console, results, chosen.rounds, len(SETTINGS[: chosen.settings]))
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "results.json").write_text(json.dumps([asdict(item) for item in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
