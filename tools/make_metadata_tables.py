"""Write the tables of a model's parts into spec/metadata.md, from the declarations of their fields.

`python tools/make_metadata_tables.py` writes them, `--check` compares them with what is there and exits with status 1
where they differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ggq.models.field import Declared, Part, Parts, declared, kinds  # noqa: E402
from ggq.models.layers.layered import LayeredSpec, StreamedSpec  # noqa: E402
from ggq.models.parts import MOST_LAYERS, ModelSpec  # noqa: E402
from ggq.models.text.parts import TextSpec  # noqa: E402

SPEC = ROOT / "spec" / "metadata.md"
BEGIN, END = "<!-- begin: tools/make_metadata_tables.py -->\n", "<!-- end -->\n"


def tables() -> str:
    """The tables of all parts, each after those that hold it."""
    texts = []
    for part in dict.fromkeys([*parts(ModelSpec), *parts(TextSpec), *parts(LayeredSpec), *parts(StreamedSpec)]):
        own = () if "kind" in declared(part) else kinds(part)
        title = f"### {part.__name__}" + "".join(f", kind `{kind}`" for kind in own)
        summary = " ".join((part.__doc__ or "").split("\n\n")[0].split())
        rows = [row for field in declared(part).values() for row in rows_of(field)]
        lines = [("key", "type", "meaning", "allowed"), ("---",) * 4, *rows]
        texts.append(f"{title}\n\n{summary}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n" + "\n".join(texts) + "\n"


def parts(whole: type) -> list[type]:
    """A class of parts and those that its parts may have, each once."""
    inner = [each for field in declared(whole).values() for each in field.classes]
    return list(dict.fromkeys([whole, *(found for each in inner for found in parts(each))]))


def rows_of(field: Declared) -> list[tuple[str, str, str, str]]:
    """The key, the type, the meaning and the allowed values of a field; for layers, also of their records."""
    declaration = field.declaration
    names = [each.__name__ for each in field.classes] + ["`none`"] * field.optional
    if isinstance(declaration, Parts):
        listed = (field.name, "list of integer", declaration.doc, f"1 to {MOST_LAYERS} numbers of records")
        return [listed, ("layer.N", names[0], "record N: the layers with N in the list", "")]
    if isinstance(declaration, Part):
        return [(field.name, " or ".join(names), declaration.doc, "")]
    return [(field.name, declaration.type, declaration.doc, declaration.allowed())]


def written(text: str) -> str:
    """The specification with its tables."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END, 1)[1]


def main(arguments: list[str]) -> int:
    """Writes or checks; returns the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    text = SPEC.read_text(encoding="utf-8")
    if not arguments:
        SPEC.write_text(written(text), encoding="utf-8")
    elif written(text) != text:
        print(f"{SPEC.relative_to(ROOT)} is not what tools/make_metadata_tables.py writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
