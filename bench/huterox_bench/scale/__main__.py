"""`python -m huterox_bench.scale --nodes 10,100,1000`: measure, print."""

import argparse
import json
import sys

from huterox_bench.scale.shape import NODES, Shape
from huterox_bench.scale.suite import measure, table


def main() -> int:
    """Print the table, or JSON, one object a line for each platform and kind."""
    made = argparse.ArgumentParser(prog="python -m huterox_bench.scale", description=__doc__)
    made.add_argument("--nodes", default=",".join(map(str, NODES)), help="platforms to compare (default %(default)s)")
    made.add_argument("--services", type=int, help="on each of them (default: a hundred a node)")
    made.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parsed = made.parse_args()
    rows = []
    for nodes in map(int, parsed.nodes.split(",")):
        rows += measure(Shape.of(nodes, parsed.services), lambda text: print(text, file=sys.stderr))
    lines = "".join(f"{json.dumps(row.as_json())}\n" for row in rows)
    sys.stdout.write(lines if parsed.output == "json" else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
