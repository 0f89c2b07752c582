"""Owners that are shown different things, and cohorts that are too small: nothing secret leaves anybody.

A hostile coordinator makes every manifest here, properly signed. Owners wait for the signature of every aggregator on their
manifest, and an aggregator signs one for an attempt."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from rig import OWNERS, Rig, changed, refusal, told

from smpc_fl.errors import CohortTooSmall, SmpcError
from smpc_fl.protocols.manifest import manifest_hash, model_digest, read
from smpc_fl.protocols.messages import (
    Endorsement,
    Manifest,
    ManifestOffer,
    RoundOffer,
    SeedReport,
    Signed,
    VectorReport,
)
from smpc_fl.protocols.records import Reporting
from smpc_fl.protocols.simulate import COORDINATOR

MODELS = {"alice": b"one model", "bob": b"another one"}


def nothing_secret(rig: Rig) -> None:
    assert not [m for _, _, m in rig.said if isinstance(m, SeedReport | VectorReport)]
    assert not [r for records in rig.written.values() for r in records if isinstance(r, Reporting)]


def ready(aggregators: int = 2) -> tuple[Rig, Manifest]:
    """A round whose aggregators have given their prekeys, and the manifest that would have followed."""
    rig = Rig({owner: np.array([0.5]) for owner in OWNERS}, aggregators=aggregators)
    rig.begin()
    _, event = rig.until(ManifestOffer)
    assert isinstance(event.message, ManifestOffer)
    return rig, read(event.message.manifest)


@pytest.mark.parametrize("aggregators", [2, 3])
def test_two_owners_never_both_get_every_signature_on_two_manifests(aggregators: int) -> None:
    """Whoever of the aggregators is shown which of the two: at most one manifest is signed by all of them."""
    for shown in product(("alice", "bob"), repeat=aggregators):
        rig, manifest = ready(aggregators)
        party = rig.parties[COORDINATOR]
        made = {
            owner: party.sign(changed(manifest, model_digest=model_digest(model))) for owner, model in MODELS.items()
        }
        signed: dict[str, list[Signed]] = {owner: [] for owner in MODELS}
        # Each is asked for the other one as well, behind the first.
        for first in (True, False):
            for name, owner in zip(rig.plan.aggregators, shown, strict=True):
                wanted = owner if first else ({*MODELS} - {owner}).pop()
                commands = rig.tell(name, COORDINATOR, ManifestOffer(made[wanted]))
                for message in told(commands):
                    if isinstance(message, Endorsement):
                        assert message.manifest_hash == manifest_hash(made[owner])
                        signed[owner].append(rig.parties[name].sign(message))
        sharing = []
        for owner, model in MODELS.items():
            if len(signed[owner]) == aggregators:
                sharing.append(owner)
                continue
            commands = rig.tell(owner, COORDINATOR, RoundOffer(made[owner], signed[owner]), model)
            assert isinstance(refusal(commands), SmpcError)
        assert len(sharing) == (len(set(shown)) == 1)
        nothing_secret(rig)


@pytest.mark.parametrize("size", [1, 2])
def test_owners_and_aggregators_both_refuse_a_small_cohort(size: int) -> None:
    """1 … k_min - 1, whether the manifest admits to the low floor or claims the right one."""
    cohort = list(OWNERS[:size])
    for k_min in (size, 3):
        rig, manifest = ready()
        signed = rig.parties[COORDINATOR].sign(changed(manifest, cohort=cohort, k_min=k_min))
        endorsements = [rig.parties[a].sign(Endorsement(manifest_hash(signed))) for a in rig.plan.aggregators]
        for name in rig.plan.aggregators:
            assert isinstance(refusal(rig.tell(name, COORDINATOR, ManifestOffer(signed))), CohortTooSmall)
        for owner in cohort:
            commands = rig.tell(owner, COORDINATOR, RoundOffer(signed, endorsements), rig.plan.model)
            assert isinstance(refusal(commands), CohortTooSmall)
        nothing_secret(rig)
