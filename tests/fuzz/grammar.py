"""Values that keep every rule which a structure's type states, and hardly any other: drawn from msgspec's own account of the
type, so that a new message or field is covered without a word here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

import mutations
from msgspec import NODEFAULT, inspect

from smpc_fl.learning import strategies as strategies_of_every_node  # noqa: F401 (registers them)
from smpc_fl.learning import strategy as strategies
from smpc_fl.learning.strategy import Strategy
from smpc_fl.pointers.lineage import DTYPES, Literal

_IDS = ("alice", "bob", "coordinator", "aggregator-0", "a", "A.b_c@d-e", "9")

_type_info = cache(inspect.type_info)

Pools = Mapping[str, Sequence[Any]]
"""Values that a field of this name may well have: hashes, ids, signed statements of the same round."""


def draw(rng: Random, kind: Any, pools: Pools | None = None) -> Any:
    """A value of a type or structure. Of a field whose name is in `pools`, half of the time one of those."""
    return _draw(rng, _type_info(kind), pools or {}, 0)


def _draw(rng: Random, kind: inspect.Type, pools: Pools, depth: int) -> Any:
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            return _struct(rng, cls, fields, pools, depth)
        case inspect.UnionType(types=types):
            return _draw(rng, rng.choice(types), pools, depth)
        case inspect.IntType(ge=ge, le=le, lt=lt):
            low = -(1 << 63) if ge is None else ge
            high = le if le is not None else lt - 1 if lt is not None else (1 << 64) - 1
            edge = mutations.edge_int(rng)
            return edge if low <= edge <= high else rng.choice((low, high, rng.randint(low, min(high, low + 100))))
        case inspect.FloatType():
            return _float(rng, kind)
        case inspect.BytesType(min_length=least, max_length=most):
            least = least or 0
            size = rng.choice((least, least, min(most or 64, least + 1), min(most or 64, least + rng.randrange(200))))
            return rng.choice((rng.randbytes(size), bytes(size)))
        case inspect.StrType():
            return _text(rng, kind)
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.LiteralType(values=values):
            return rng.choice(values)
        case inspect.ListType() | inspect.VarTupleType():
            least = kind.min_length or 0
            size = min(least + rng.choice((0, 0, 1, 2, 3, 9 if depth < 2 else 1)), kind.max_length or 1 << 20)
            items = [_draw(rng, kind.item_type, pools, depth + 1) for _ in range(size)]
            return items if isinstance(kind, inspect.ListType) else tuple(items)
        case inspect.DictType(key_type=key, value_type=value):
            size = rng.choice((0, 1, 3))
            return {_draw(rng, key, pools, depth + 1): _draw(rng, value, pools, depth + 1) for _ in range(size)}
        case inspect.Metadata(type=inner):
            return _draw(rng, inner, pools, depth)
        case inspect.CustomType(cls=cls) if cls is Strategy:
            names = sorted(
                name for name, known in strategies.known().items() if known.__module__.startswith("smpc_fl.")
            )
            return _draw(rng, _type_info(strategies.known()[rng.choice(names)]), pools, depth)
        case _:
            raise AssertionError(f"no grammar for {kind}: add it")


def _struct(rng: Random, cls: type[Any], fields: Sequence[inspect.Field], pools: Pools, depth: int) -> Any:
    """Structures may have rules of their own (`__post_init__` raises `ValueError`): drawn until one keeps them."""
    if cls is Literal:
        name, shape = rng.choice(sorted(DTYPES)), rng.choice(((), (2,), (0,), (2, 3), (0, 1 << 20, 1 << 20), (1,) * 8))
        return Literal(name, shape, bytes(math.prod(shape) * DTYPES[name].itemsize))
    for _ in range(100):
        values = {field.name: _field(rng, field, pools, depth) for field in fields}
        try:
            return cls(**{name: value for name, value in values.items() if value is not NODEFAULT})
        except ValueError:
            continue
    raise AssertionError(f"no {cls.__name__} keeps its own rules: help it")


def _field(rng: Random, field: inspect.Field, pools: Pools, depth: int) -> Any:
    if field.name in pools and pools[field.name] and rng.random() < 0.6:
        return rng.choice(pools[field.name])
    if not field.required and rng.random() < 0.3:
        return NODEFAULT
    return _draw(rng, field.type, pools, depth + 1)


def _float(rng: Random, kind: inspect.FloatType) -> float:
    for _ in range(20):
        value = mutations.edge_float(rng)
        value = abs(value) if rng.random() < 0.5 else value
        if (
            (kind.ge is None or value >= kind.ge)
            and (kind.gt is None or value > kind.gt)
            and (kind.le is None or value <= kind.le)
            and (kind.lt is None or value < kind.lt)
        ):
            return value
    return 0.5


def _text(rng: Random, kind: inspect.StrType) -> str:
    pattern, most, least = kind.pattern, kind.max_length or 1 << 12, kind.min_length or 0
    if pattern is None:
        text = rng.choice((*mutations.TEXTS, "x", "x", "heart/x", "#tag"))[:most]
        return text if len(text) >= least else "x" * least
    options = [*re.findall(r"\w+", pattern), *_IDS, "ab" * 32, "0" * 64, "abs", "mean", ""]
    fitting = [text for text in options if re.search(pattern, text) and least <= len(text) <= most]
    assert fitting, f"no text for the pattern {pattern}: add one"
    return str(rng.choice(fitting))
