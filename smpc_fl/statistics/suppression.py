"""Cells of few rows: what is left out of a result, and how far that goes.

Two places can suppress. "total": the totals over all owners come out of the secure sum, and cells of 1 to min_count - 1
rows are dropped here, in the researcher's own process, before the result is made: it keeps a published table clean, not a
curious researcher. "owner": every owner sets its own cells of fewer than min_count rows to zero before they are shared, so
that nobody else ever has them; the totals then lack those rows, and how many is one more total.

Empty cells are shown. A cell that could be told from the others and their total is dropped with it (secondary
suppression: Cox, "Suppression Methodology and Statistical Disclosure Control", JASA 75, 1980), in one-way tables. With
privacy nothing is suppressed: every cell has noise.
"""

from __future__ import annotations

from typing import Literal

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Part
from smpc_fl.statistics.options import Settings
from smpc_fl.statistics.remote import where

Suppress = Literal["total", "owner"]


def check_suppress(suppress: str, settings: Settings) -> None:
    if suppress not in ("total", "owner"):
        raise BadInput(f'suppress={suppress!r}: use "total" or "owner"')
    if suppress == "owner" and settings.privacy is not None:
        raise BadInput('suppress="owner" does not go with privacy=, whose noise protects small cells: leave it out')


def small_cells(counts: torch.Tensor, min_count: int) -> torch.Tensor:
    """bool, of the shape of `counts`: the cells to drop."""
    flat = counts.reshape(-1)
    hidden = (flat > 0) & (flat < min_count)
    while bool(hidden.any()) and float(flat[hidden].sum()) < min_count:  # one alone always is
        shown = torch.where(hidden | (flat == 0), torch.inf, flat)
        if bool(torch.isinf(shown).all()):
            break
        hidden[shown.argmin()] = True
    return hidden.reshape(counts.shape)


def at_owner(counts: PointerTensor, min_count: int, rows_scale: float) -> tuple[PointerTensor, Part]:
    """(which cells an owner keeps, how many of its rows are left out), from its own counts."""
    keep = (counts >= min_count) | (counts == 0)
    return keep, (where(keep, 0.0, counts).sum(), rows_scale)
