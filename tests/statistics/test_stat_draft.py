"""Drafts: the same computation as at an owner, without a message."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from statistics_world import of, world

import smpc_fl as sf
from smpc_fl.errors import InternalError, PermissionDenied, ShapeMismatch
from smpc_fl.statistics.draft import Draft


def test_a_draft_spells_what_the_owner_would() -> None:
    made = world(x=[np.ones((n, 3)) for n in (4, 5, 6)])
    (real, *_) = of(made, "x")
    draft = Draft(made)
    here = draft.take(real)
    made.sent.clear()

    def work(p: sf.PointerTensor) -> sf.PointerTensor:
        result: sf.PointerTensor = (p[:, :2] * torch.tensor([1.0, 2.0]) > 0).sum(0)
        return result

    drafted = work(here)
    assert made.sent == []
    owners = work(real)
    assert (drafted.expression, drafted.known_shape, drafted.dtype) == (owners.expression, (2,), torch.int64)
    assert (draft.k_min, list(draft.owners)) == (3, list(made.owners))
    assert repr(here.shape) == repr(real.shape)
    with pytest.raises(ShapeMismatch, match="matmul cannot be applied"):
        _ = here @ here
    with pytest.raises(PermissionDenied, match="keep rows whole"):
        here.reshape(-1)
    with pytest.raises(InternalError, match="operations only"):
        drafted.get()


def test_statistics_send_nothing_but_the_aggregate() -> None:
    made = world(x=[np.ones((n, 3)) for n in (4, 5, 6)])
    x = of(made, "x")
    made.sent.clear()
    sf.stats.describe(x, bound=1)
    assert (made.sent, len(made.jobs)) == ([], 1)


def test_drafts_are_let_go() -> None:
    made = world(x=[np.ones((n, 3)) for n in (4, 5, 6)])
    draft = Draft(made)
    here = draft.take(of(made, "x")[0])
    made_here = here.sum(0).square()
    assert len(draft._held) == 2
    del made_here
    assert len(draft._held) == 1
