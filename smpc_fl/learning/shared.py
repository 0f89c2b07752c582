"""Which tensors of a model travel between owners and server, and which stay at home. No torch here.

Parameters travel, and the running statistics that training changes; what nobody changes (frozen layers, constants) does
not, and neither does what is private: layers that every owner has for itself (FedPer: Arivazhagan et al. 2019; FedBN: Li
et al., ICLR 2021). A model is float32[d], its shared part float32[s], s <= d, the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache

import numpy as np

from smpc_fl.errors import BadInput
from smpc_fl.learning.strategy import Strategy
from smpc_fl.learning.update import TRAIN_METRICS
from smpc_fl.plans.document import PlanDocument, decode_document
from smpc_fl.plans.layout import Layout, Vector
from smpc_fl.plans.update_document import UpdateDocument, update_of

NORMALISATION = ("aten.batch_norm.default", "aten.layer_norm.default", "aten.group_norm.default")
_STATISTICS = {"aten.batch_norm.default": (3, 4)}
"""Arguments that an operator changes (`plans.operators.BUFFERS_ONLY`, which needs torch)."""


@dataclass(frozen=True)
class Shared:
    """`model`: the layout of the whole; `layout`: of what travels; `private`: names of what every owner has for itself."""

    model: Layout
    layout: Layout
    private: frozenset[str]
    metrics: tuple[str, ...] = TRAIN_METRICS
    """What owners tell beside the update."""

    @property
    def size(self) -> int:
        """s."""
        return self.layout.size

    @property
    def whole(self) -> bool:
        """Does everything travel?"""
        return len(self.layout.parts) == len(self.model.parts)

    @cached_property
    def places(self) -> list[tuple[slice, slice]]:
        """Where a stretch is, in the model and in what travels."""
        travel = {part.name: place for part, place in self.layout.slices()}
        return [(place, travel[part.name]) for part, place in self.model.slices() if part.name in travel]

    def gather(self, model: Vector) -> Vector:
        """float32[s] of float32[d]; the very same vector where everything travels."""
        if self.whole:
            return model
        out = np.empty(self.size, model.dtype)
        for place, travels in self.places:
            out[travels] = model[place]
        return out

    def scatter(self, shared: Vector, model: Vector) -> Vector:
        """float32[d]: `model` with what travels replaced."""
        if self.whole:
            return shared
        out = model.copy()
        for place, travels in self.places:
            out[place] = shared[travels]
        return out

    def own(self, model: Vector) -> Vector:
        """The private tensors of float32[d], one behind the other."""
        parts = [model[place] for part, place in self.model.slices() if part.name in self.private]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def with_own(self, model: Vector, own: Vector) -> Vector:
        """float32[d]: `model` with the private tensors replaced."""
        out, start = model.copy(), 0
        for part, place in self.model.slices():
            if part.name in self.private:
                out[place] = own[start : start + part.size]
                start += part.size
        return out


@lru_cache(maxsize=8)
def shared_of(plan: bytes, strategy: Strategy, private: Sequence[str] = ()) -> Shared:
    """What of an encoded plan travels. `private`: names or patterns ("head.*") besides what the strategy keeps at home.

    Raises `PlanRejected`; `BadInput` for a pattern that nothing matches, and where nothing would travel."""
    update = update_of(plan)
    if update is not None:
        _check_plain(update, strategy, private)
        layout = Layout(tuple(update.layout))
        return Shared(layout, layout, frozenset(), tuple(update.metrics))
    document = decode_document(plan)
    home = strategy.stays(document) | _matching(document, private)
    changed = {part.name for part in document.layout if part.kind == "parameter"} | _statistics(document)
    travel = tuple(part for part in document.layout if part.name in changed - home)
    if not any(part.size for part in travel):
        raise BadInput(
            "no tensor of the model would travel: leave some out of `private`, or train without a federation"
        )
    return Shared(Layout(tuple(document.layout)), Layout(travel), home)


def _check_plain(update: UpdateDocument, strategy: Strategy, private: Sequence[str]) -> None:
    """Raises `BadInput` where more is wanted of owners than the change that an update function gives."""
    from smpc_fl.learning.strategies import FedAvg

    kind, plain = type(strategy), (FedAvg.local, FedAvg.stays, FedAvg.parts)
    if (kind.local, kind.stays, kind.parts) != plain:
        raise BadInput(
            f"{kind.__name__} says how owners train, and the update function {update.update!r} says that itself: use FedAvg, "
            "FedAvgM, FedAdagrad, FedAdam or FedYogi, and write the rest into the function"
        )
    if private:
        raise BadInput(f"private={tuple(private)}: the update function {update.update!r} keeps nothing: leave it out")


def _matching(document: PlanDocument, patterns: Sequence[str]) -> frozenset[str]:
    names = [part.name for part in document.layout]
    found = set()
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise BadInput(f"private={pattern!r} matches none of the model's tensors: {', '.join(names)}")
        found.update(matching)
    return frozenset(found)


def _statistics(document: PlanDocument) -> set[str]:
    return {
        argument[1:]
        for node in document.train.nodes
        for place in _STATISTICS.get(node.operator, ())
        if place < len(node.args) and isinstance(argument := node.args[place], str) and argument[0] == "@"
    }


def normalisation(document: PlanDocument) -> frozenset[str]:
    """Names of the tensors that normalisation layers use: scale, shift and running statistics."""
    return frozenset(
        argument[1:]
        for node in document.train.nodes
        if node.operator in NORMALISATION
        for argument in node.args
        if isinstance(argument, str) and argument[0] == "@"
    )
