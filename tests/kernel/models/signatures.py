"""Signatures of many kinds."""

from __future__ import annotations

from typing import Any

import numpy as np


class Signatures:
    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting
        self.helper = lambda: 1

    def positional(self, a: int, b: int = 2, /, c: int = 3) -> list[int]:
        return [a, b, c]

    def keyword(self, *, a: int) -> int:
        return a

    def packs(self, *values: Any, a: int = 1) -> int:
        return a + len(values)

    @staticmethod
    def static(a: int) -> int:
        return a

    @classmethod
    def of_class(cls, a: int) -> str:
        return f"{cls.__name__}{a}"

    def unknown_annotation(self, x: NoSuchType) -> int:  # noqa: F821
        return int(np.asarray(x).sum())


def factory(greeting: str) -> Signatures:
    return Signatures(greeting)
