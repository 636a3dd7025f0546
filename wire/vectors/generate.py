"""Write the test vectors beside this file, always the same: `python wire/vectors/generate.py [DIRECTORY]`."""

import json
import sys
from pathlib import Path
from typing import Any

import leases
from good import GOOD
from malformed import MALFORMED


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, theme in {**GOOD, **leases.GOOD, **MALFORMED, **leases.PACKETS}.items():
        vectors = theme()
        assert len({vector["name"] for vector in vectors}) == len(vectors), name
        document = {"format": 1, "about": (theme.__doc__ or "").strip(), "vectors": vectors}
        (folder / f"{name}.json").write_text(text_of(document), encoding="utf-8")


def text_of(document: dict[str, Any]) -> str:
    """JSON with one field of a vector on a line: short, and a difference is seen."""
    vectors = []
    for vector in document["vectors"]:
        lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in vector.items()]
        vectors.append("   {\n" + ",\n".join(lines) + "\n   }")
    head = f'{{\n  "format": {document["format"]},\n  "about": {json.dumps(document["about"])},\n  "vectors": [\n'
    return head + ",\n".join(vectors) + "\n  ]\n}\n"


if __name__ == "__main__":
    main()
