"""Give a checkout the address of its repository before it is published: links of README, and of the package's page.

    python tools/project_urls.py URL [--tree FOLDER]

README links to files beside it, which an index page does not have: they become links into the repository.
pyproject.toml gets [project.urls]. URL is what .github/workflows/release.yml finds in its environment: nothing else
here knows it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "Homepage": "",
    "Documentation": "/blob/main/docs/index.md",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Source": "",
    "Issues": "/issues",
}
"""Names of links on the package's page, and where in the repository they lead."""


def main(arguments: list[str] | None = None) -> int:
    """Rewrite both files; see the module's docstring.

    Returns:
        0 when they were written, 2 when they have such links already or URL is none.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", metavar="URL", help="the repository's address: https://HOST/OWNER/NAME")
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="FOLDER", help="the checkout, by default this one")
    options = parser.parse_args(arguments)
    url = options.url.rstrip("/")
    project, readme = options.tree / "pyproject.toml", options.tree / "README.md"
    text = project.read_text(encoding="utf-8")
    if not re.fullmatch(r"https://[\w.-]+/[\w./-]+", url) or "[project.urls]" in text:
        print("an https address is needed, and a pyproject.toml without [project.urls]", file=sys.stderr)
        return 2
    project.write_text(with_urls(text, url), encoding="utf-8")
    readme.write_text(with_links(readme.read_text(encoding="utf-8"), url), encoding="utf-8")
    return 0


def with_urls(project: str, url: str) -> str:
    """The text of pyproject.toml with [project.urls] before [project.scripts]."""
    lines = "".join(f'{name} = "{url}{place}"\n' for name, place in PLACES.items())
    return project.replace("[project.scripts]\n", f"[project.urls]\n{lines}\n[project.scripts]\n", 1)


def with_links(readme: str, url: str) -> str:
    """The text of README with its links to files, and its pictures, as addresses."""
    pictures = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)([^)]+)\)", rf"\1{url}/raw/main/\2)", readme)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)([^)]+)\)", rf"\1{url}/blob/main/\2)", pictures)


if __name__ == "__main__":
    sys.exit(main())
