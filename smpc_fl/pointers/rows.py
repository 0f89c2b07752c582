"""The number of rows that an owner keeps to itself, as a symbol in a shape.

A `Rows` stands where torch has an int. It can be printed and compared with itself; whatever would turn it into a number
(arithmetic, `int()`, comparison with a number, use as an index) raises `PermissionDenied`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from smpc_fl.errors import PermissionDenied


def _refuse(self: Rows, *_: Any) -> NoReturn:
    raise PermissionDenied(
        "the number of rows is private: leave it symbolic; p.mean(0) divides by it, and sf.secure_sum of "
        "torch.ones_like(p[:, 0]).sum() gives the total over owners"
    )


class Rows:
    """The first dimension of the registered tensors of `group`, which line up row by row."""

    __slots__ = ("group",)

    def __init__(self, group: str) -> None:
        self.group = group

    def __repr__(self) -> str:
        return "rows"

    def __hash__(self) -> int:
        return hash(("rows", self.group))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rows):
            return self.group == other.group
        _refuse(self)

    __int__ = __index__ = __float__ = __complex__ = __bool__ = __round__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __pow__ = __rpow__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = _refuse
    __neg__ = __pos__ = __abs__ = _refuse


class SymbolicShape(tuple[int | Rows, ...]):
    """A shape such as `(rows, 13)`: a tuple like `torch.Size`, but for the dimension that is private."""

    __slots__ = ()

    def numel(self) -> int:
        """The number of elements; `PermissionDenied` where it would show the number of rows."""
        count = 1
        for dimension in self:
            count *= dimension if isinstance(dimension, int) else _refuse(dimension)
        return count
