"""A tensor that an owner has registered, as its object store sees it: public metadata, and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.literals import dtype_name
from smpc_fl.pointers.shapes import Spec


@dataclass(frozen=True)
class Holding:
    """One registered tensor. `spec` is its public metadata, `private` and `mock` read it. Where `public` is true, its
    value, and what is computed from public tensors alone, may be fetched by anyone."""

    name: str
    spec: Spec
    private: Callable[[], torch.Tensor]
    mock: Callable[[], torch.Tensor] | None = None
    tags: tuple[str, ...] = ()
    public: bool = False

    def matches(self, query: str) -> bool:
        """Is it meant by "" (everything), "#tag" (a tag, or the tensor's own name), or its name?"""
        tags = {tag.removeprefix("#") for tag in self.tags} | {self.name.rpartition("/")[2]}
        return query in ("", self.name) or (query.startswith("#") and query[1:] in tags)


def holding(
    name: str,
    tensor: torch.Tensor,
    *,
    group: str = "",
    mock: torch.Tensor | None = None,
    tags: tuple[str, ...] = (),
    publish_rows: bool = False,
    public: bool = False,
) -> Holding:
    """A registered tensor in memory. `group` names the tensors that line up with it row by row (its data set)."""
    if tensor.ndim and not len(tensor):
        raise BadInput(f"tensor {name!r} has no rows: register it when there are some")
    private_rows = tensor.ndim > 0 and not (publish_rows or public)
    shape: tuple[int | str, ...] = (group or name, *tensor.shape[1:]) if private_rows else tuple(tensor.shape)
    return Holding(
        name, Spec(shape, dtype_name(tensor.dtype)), lambda: tensor, (lambda: mock) if mock is not None else None, tags, public
    )  # fmt: skip
