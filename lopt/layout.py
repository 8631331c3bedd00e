"""Named tensors in one flat vector."""

import json
import math
from collections.abc import Iterable, Mapping

import numpy as np

from lopt.errors import UsageError


class Layout:
    """An ordered, immutable list of named tensors packed row-major into one flat vector.

    Kernels take the flat vector, people take `views` of it.

    Args:
        tensors: pairs of (name, shape); a scalar has shape ().

    Raises:
        UsageError: a name occurs twice or a size is negative.
    """

    __slots__ = ("_items", "names", "offsets", "shapes", "size", "sizes")

    def __init__(self, tensors: Iterable[tuple[str, Iterable[int]]]) -> None:
        self._items = tuple((str(n), tuple(int(d) for d in s)) for n, s in tensors)
        self.names = tuple(n for n, _ in self._items)
        self.shapes = tuple(s for _, s in self._items)
        if len(set(self.names)) != len(self.names):
            raise UsageError(f"tensor names must be unique, got {self.names}")
        if any(d < 0 for s in self.shapes for d in s):
            raise UsageError(f"tensor sizes must be non-negative, got {self.shapes}")
        self.sizes = tuple(math.prod(s) for s in self.shapes)
        ends = np.cumsum((0, *self.sizes))
        self.offsets = tuple(int(e) for e in ends[:-1])
        self.size = int(ends[-1])

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self):
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"Layout({self._items})"

    @classmethod
    def of(cls, arrays: Mapping[str, object]) -> "Layout":
        """The layout of a dict of arrays, in the dict's order."""
        return cls((name, np.shape(a)) for name, a in arrays.items())

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Named views (no copies) of a flat vector of `size` elements."""
        if flat.shape != (self.size,):
            raise UsageError(f"flat vector has shape {flat.shape}, the layout needs ({self.size},)")
        return {
            n: flat[o : o + k].reshape(s)
            for n, s, o, k in zip(self.names, self.shapes, self.offsets, self.sizes, strict=True)
        }

    def flatten(self, arrays: Mapping[str, object], dtype: type = np.float32) -> np.ndarray:
        """Copy named arrays into a new flat vector.

        Raises:
            UsageError: a tensor is missing, unexpected, or of another shape.
        """
        if set(arrays) != set(self.names):
            wrong = sorted(set(arrays) ^ set(self.names))
            raise UsageError(f"tensors {wrong} do not match the layout's {list(self.names)}")
        flat = np.empty(self.size, dtype)
        for name, view in self.views(flat).items():
            value = np.asarray(arrays[name])
            if value.shape != view.shape:
                raise UsageError(f"tensor {name!r} has shape {value.shape}, expected {view.shape}")
            view[...] = value
        return flat

    def to_json(self) -> str:
        """A JSON text that `from_json` turns back into an equal layout."""
        return json.dumps([[n, list(s)] for n, s in self._items])

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """Inverse of `to_json`."""
        return cls((n, s) for n, s in json.loads(text))
