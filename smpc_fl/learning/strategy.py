"""A strategy: what an owner sends in a training round, and what the server makes of the mean. No torch here.

What an owner sends is one flat vector of named parts. "update" is the first: what changed in the tensors that travel
(`shared.py`). Under secret sharing the aggregators only ever add, so a strategy is a method of federated learning whose
server needs nothing but weighted means over owners.

    class FedAvgM(FedAvg):                       # a strategy of one's own: inherit from one that sends the same
        momentum: float = 0.9
        SERVER: ClassVar = FedAvg.SERVER | {"momentum"}

        def keeps(self) -> dict[str, float]:
            return {"velocity": 0.0}

        def step(self, mean, kept, about):
            kept["velocity"][:] = self.momentum * kept["velocity"] + mean["update"]
            return self.server_lr * kept["velocity"]

Options are fields (they travel with the job, owners approve them); code never travels: `register` makes a strategy known
to a process, and a job that names one which a node does not know is refused there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import msgspec

from smpc_fl.chunks import Floats
from smpc_fl.errors import BadInput
from smpc_fl.plans.document import PlanDocument

if TYPE_CHECKING:
    from smpc_fl.jobs import LocalTraining
    from smpc_fl.learning.local import Local
    from smpc_fl.plans.layout import Vector


@dataclass(frozen=True)
class About:
    """A training round, as the server knows it: its number (from 1), how many owners are in the sum, how many are in the
    cohort, and what they do locally."""

    number: int
    included: int
    cohort: int
    local: LocalTraining


class Strategy:
    """What all strategies can be asked. Fields and defaults come from msgspec structs (`strategies/`)."""

    weights: Any
    """"rows": an owner weighs as many as its rows; "equal": all weigh the same."""

    SERVER: ClassVar[frozenset[str]] = frozenset({"server_lr"})
    """Fields that shape only what the server does: two jobs that differ in nothing else ask owners for the same numbers,
    which the rule of releases has to know (`work.subject_of`)."""
    KEEPS: ClassVar[bool] = False
    """Do owners keep vectors from round to round? (`owner.keep`)"""
    PERSONAL: ClassVar[bool] = False
    """Does every owner keep a model of its own beside the global one? (`kept["personal"]`, evaluated as well.)"""
    ONE_TRAINING: ClassVar[bool] = False
    """Is what `local` sends and keeps made of nothing of the owner's but one `owner.train()`? Then it may train with privacy
    for each record. A class that says `local` says this, too; it is not inherited to another one's `local`."""
    SHOWS: ClassVar[tuple[str, ...]] = ()
    """Of what the server keeps, the vectors that owners get with the model."""

    def check(self, local: LocalTraining) -> None:
        """Raises `BadInput` where the options do not go together."""

    def stays(self, document: PlanDocument) -> frozenset[str]:
        """Names of tensors that never leave an owner."""
        return frozenset()

    def parts(self, size: int) -> dict[str, int]:
        """What an owner sends: lengths by name, in order; `size`: elements of the tensors that travel."""
        return {"update": size}

    def keeps(self) -> dict[str, float]:
        """What the server keeps from round to round: vectors like the update, by name, each filled with a number at first."""
        return {}

    def local(self, owner: Local) -> dict[str, Vector]:
        """At an owner: the parts. `owner.train()` is local training; `owner.keep[name] = vector` is there next time."""
        raise NotImplementedError

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        """At the server: what is added to the parameters. It is given a stretch of the vectors at a time, so it goes
        element by element; a part of another length than the update's is given whole. `kept` is changed in place.

        Buffers (running statistics) do not come here: their mean change is added."""
        raise NotImplementedError


S = TypeVar("S", bound=type)
_known: dict[str, type] = {}


def register(strategy: S) -> S:
    """Class decorator: jobs may name this strategy in this process. Raises `BadInput` for a name that is taken."""
    if not (issubclass(strategy, Strategy) and issubclass(strategy, msgspec.Struct)):
        raise BadInput(f"{strategy.__name__} is no strategy: inherit from sf.FedAvg, or from another one")
    taken = _known.setdefault(strategy.__name__, strategy)
    if (taken.__module__, taken.__qualname__) != (strategy.__module__, strategy.__qualname__):
        raise BadInput(f"there is a strategy {strategy.__name__} already, of {taken.__module__}: choose another name")
    _known[strategy.__name__] = strategy
    return strategy


def known() -> Mapping[str, type]:
    """Strategies by the name that jobs call them."""
    return _known


def decode(kind: type, value: object) -> Any:
    """`dec_hook` of msgspec for fields of type `Strategy`: what "type" names, with its options checked."""
    if kind is not Strategy:
        raise NotImplementedError(kind)
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _known:
        raise ValueError(
            f"no strategy {name!r} here; there are: {', '.join(sorted(_known))} (one of your own: install it at every node)"
        )
    return msgspec.convert(value, _known[name])


def trains_once(strategy: Strategy) -> bool:
    """`ONE_TRAINING`, as the class that says `local` has it."""
    return bool(_author(strategy).__dict__.get("ONE_TRAINING", False))


def _author(strategy: Strategy) -> type:
    """Who computes what owners send."""
    return next(kind for kind in type(strategy).__mro__ if "local" in kind.__dict__)


def same_numbers(strategy: Strategy) -> list[object]:
    """What shapes the numbers that owners send: who computes them (the class that says `local`), and its options."""
    fields: tuple[str, ...] = strategy.__struct_fields__  # type: ignore[attr-defined]
    shaping = {name: getattr(strategy, name) for name in fields if name not in strategy.SERVER and name != "weights"}
    return [_author(strategy).__name__, strategy.weights, *([shaping] if shaping else [])]


Weights = Literal["rows", "equal"]
