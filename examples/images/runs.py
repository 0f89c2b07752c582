"""What the comparisons on images have in common: who holds what, the first weights, and the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from data import digits_of_owners
from torch import nn

import smpc_fl as sf
from smpc_fl.nodes.demo.tables import Table


def deal(
    train: Table, owners: int, *, alpha: float, rows: int, unseen: int, seed: int
) -> tuple[dict[str, dict[str, npt.NDArray[Any]]], Table]:
    """({owner: {"x": …, "y": …}}, `unseen` other images, that no owner has) of draw `seed`."""
    rng = np.random.default_rng([seed, owners])
    others = np.zeros(len(train.y), np.bool_)
    others[rng.permutation(len(train.y))[:unseen]] = True
    held = digits_of_owners(train.rows(~others), owners, alpha=alpha, rng=rng, rows=rows, min_rows=20)
    return {owner: {"x": table.x, "y": table.y} for owner, table in held.items()}, train.rows(others)


def first_plan(network: Callable[[], nn.Module], train: Table, seed: int) -> sf.Plan:
    torch.manual_seed(seed)
    return sf.Plan.from_module(network(), example=(train.x[:4], train.y[:4]))


def accuracy(net: nn.Module, table: Table) -> float:
    with torch.no_grad():
        named = torch.cat([net.eval()(part).argmax(1) for part in torch.split(torch.from_numpy(table.x), 1000)])
    return float((named.numpy() == table.y).mean())
