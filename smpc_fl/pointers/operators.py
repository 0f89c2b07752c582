"""Python's operators on a pointer, each as the operation of torch that it stands for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from smpc_fl.pointers.calls import Remote


class Operators(Remote):
    """`+ - * / @ **`, comparisons, `& | ^ ~`, `[]` and `where`. Results are pointers."""

    __slots__ = ()

    @staticmethod
    @abstractmethod
    def _call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run what torch calls `name` at the owner of the pointers among the arguments."""

    __hash__ = object.__hash__  # by identity: == is an operation at the owner

    def where(self, condition: Any, other: Any) -> Any:
        return self._call("where", (condition, self, other), {})

    def __getitem__(self, index: Any) -> Any:
        return self._call("index", (self, index), {})

    def __add__(self, other: Any) -> Any:
        return self._call("add", (self, other), {})

    def __radd__(self, other: Any) -> Any:
        return self._call("add", (other, self), {})

    def __sub__(self, other: Any) -> Any:
        return self._call("sub", (self, other), {})

    def __rsub__(self, other: Any) -> Any:
        return self._call("sub", (other, self), {})

    def __mul__(self, other: Any) -> Any:
        return self._call("mul", (self, other), {})

    def __rmul__(self, other: Any) -> Any:
        return self._call("mul", (other, self), {})

    def __truediv__(self, other: Any) -> Any:
        return self._call("div", (self, other), {})

    def __rtruediv__(self, other: Any) -> Any:
        if isinstance(other, int | float):  # as torch.Tensor.__rdiv__ does, to the last bit
            return self._call("mul", (self._call("reciprocal", (self,), {}), other), {})
        return self._call("div", (other, self), {})

    def __matmul__(self, other: Any) -> Any:
        return self._call("matmul", (self, other), {})

    def __rmatmul__(self, other: Any) -> Any:
        return self._call("matmul", (other, self), {})

    def __pow__(self, exponent: Any) -> Any:
        return self._call("pow", (self, exponent), {})

    def __rpow__(self, base: Any) -> Any:
        return self._call("pow", (base, self), {})

    def __and__(self, other: Any) -> Any:
        return self._call("bitwise_and", (self, other), {})

    def __or__(self, other: Any) -> Any:
        return self._call("bitwise_or", (self, other), {})

    def __xor__(self, other: Any) -> Any:
        return self._call("bitwise_xor", (self, other), {})

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __eq__(self, other: object) -> Any:
        return self._call("eq", (self, other), {})

    def __ne__(self, other: object) -> Any:
        return self._call("ne", (self, other), {})

    def __lt__(self, other: Any) -> Any:
        return self._call("lt", (self, other), {})

    def __le__(self, other: Any) -> Any:
        return self._call("le", (self, other), {})

    def __gt__(self, other: Any) -> Any:
        return self._call("gt", (self, other), {})

    def __ge__(self, other: Any) -> Any:
        return self._call("ge", (self, other), {})

    def __neg__(self) -> Any:
        return self._call("neg", (self,), {})

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Any:
        return self._call("abs", (self,), {})

    def __invert__(self) -> Any:
        return self._call("bitwise_not", (self,), {})

    # What torch does in place, and integer division, are refused by name.

    def __setitem__(self, index: Any, value: Any) -> None:
        self._call("__setitem__", (self, index, value), {})

    def __delitem__(self, index: Any) -> None:
        self._call("__delitem__", (self, index), {})

    def __iadd__(self, other: Any) -> Any:
        return self._call("__iadd__", (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self._call("__isub__", (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self._call("__imul__", (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self._call("__itruediv__", (self, other), {})

    def __ipow__(self, other: Any) -> Any:
        return self._call("__ipow__", (self, other), {})

    def __floordiv__(self, other: Any) -> Any:
        return self._call("__floordiv__", (self, other), {})

    def __rfloordiv__(self, other: Any) -> Any:
        return self._call("__rfloordiv__", (self, other), {})

    def __mod__(self, other: Any) -> Any:
        return self._call("__mod__", (self, other), {})

    def __rmod__(self, other: Any) -> Any:
        return self._call("__rmod__", (self, other), {})

    def __divmod__(self, other: Any) -> Any:
        return self._call("__divmod__", (self, other), {})
