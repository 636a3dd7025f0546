"""A model that has other processes work for it: they import its module by name."""

import inspect
import pickle
import subprocess
import sys
import typing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from .helper import FACTOR


@dataclass
class Pair:
    one: int
    other: "int"


def work(pair: Pair) -> Pair:
    return Pair(pair.one * FACTOR, pair.other * FACTOR)


class Spawns:
    def predict(self, way: str) -> list[int]:
        """A pool of the standard library's, with objects of this module going both ways."""
        with ProcessPoolExecutor(1, mp_context=get_context(way)) as pool:
            pair = pool.submit(work, Pair(1, 2)).result(60)
        return [pair.one, pair.other]

    def process(self, way: str) -> int:
        context = get_context(way)
        receiver, sender = context.Pipe(False)
        child = context.Process(target=self.send, args=(sender,))
        child.start()
        child.join(60)
        return int(receiver.recv())

    def send(self, sender: Any) -> None:
        sender.send(FACTOR)

    def other_program(self) -> str:
        """Another interpreter, which has the model's folder as its own."""
        code = f"import pickle; print(pickle.loads({pickle.dumps(Pair(5, 6))!r}))"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()

    def describes(self) -> dict[str, Any]:
        return {
            "name": __name__,
            "file": __file__,
            "argv": sys.argv,
            "source": inspect.getsource(work).splitlines()[0],
            "hints": str(typing.get_type_hints(Pair)["other"]),
            "copied": pickle.loads(pickle.dumps(Pair(7, 8))).other,
        }
