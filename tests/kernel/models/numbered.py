"""A model for calls with numbered forms."""

from typing import Any

import numpy as np


class Numbered:
    def __init__(self) -> None:
        self.held: list[Any] = []
        self.last_address = 0

    def plus(self, x):
        return x + 1

    def same(self, **values):
        return values

    def where(self, x):
        return {"address": x.__array_interface__["data"][0]}

    def writable(self, **values):
        return {name: value.flags.writeable for name, value in values.items()}

    def double_in_place(self, y):
        y *= 2

    def keep(self, x):
        self.held.append(x[:1])
        return np.array([len(self.held)], np.float64)

    def kept(self):
        return np.concatenate(self.held)

    def forget(self):
        self.held.clear()

    def allocated(self, size, *, allocate):
        result = allocate(size, "float32")
        result[...] = np.arange(size)
        self.last_address = result.__array_interface__["data"][0]
        return result

    def where_allocated(self):
        return {"address": self.last_address}

    def scratch(self, size, *, allocate):
        self.held = [allocate(size, "int64")]
        allocate((2, size))
        return size

    def fail(self, x):
        raise ValueError(f"never {x.sum()}")

    def zeros(self, x):
        return np.zeros(int(x[0]), np.uint8)

    def count(self, x):
        for index in range(int(x[0])):
            yield {"i": np.array([index])}
