"""What is published: the source distribution's files, the citation, the workflows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ggq
from tests.kit.support import ROOT
from tools import project_urls

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_a_source_distribution_takes_all_that_tests_need() -> None:
    """Every file of the tree is in a package, or named in MANIFEST.in, or only for work on the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout of git")
    manifest = (ROOT / "MANIFEST.in").read_text()
    grafted = tuple(f"{name}/" for name in re.findall(r"^graft (\S+)$", manifest, re.MULTILINE))
    named = set(" ".join(re.findall(r"^include (.+)$", manifest, re.MULTILINE)).split())
    always = {"README.md", "LICENSE", "pyproject.toml", "MANIFEST.in"}
    own = (".github/", ".gitignore", ".pre-commit-config.yaml")
    packages = ("ggq/", "kernels/ggq_kernels/")
    left = [
        name
        for name in listed.stdout.split()
        if not name.startswith((*grafted, *packages, *own)) and name not in named | always
    ]
    assert left == []


def test_the_citation_names_this_version() -> None:
    assert f"version: {ggq.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_no_extra_is_empty_and_the_included_text_has_its_licence() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"^\w+ = \[\]$", text, re.MULTILINE)
    assert 'license = "MIT AND PSF-2.0"' in text
    assert "Python Software" in (ROOT / "ggq" / "demo" / "README.md").read_text()


def test_the_contents_name_pages_that_are_there() -> None:
    contents = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    named = set(re.findall(r"[\w/]+\.md", contents))
    assert named <= pages and len(named) > 20


def test_a_release_has_links_that_work_on_an_index_page(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    url = "https://git.example/org/ggq"
    assert project_urls.main([url, "--tree", str(tmp_path)]) == 0
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Issues"] == f"{url}/issues" and project["scripts"]["ggq"]
    readme = (tmp_path / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(links) > 12 and all(link.startswith(url) for link in links)
    assert f"]({url}/raw/main/docs/fidelity.svg)" in readme and f"]({url}/blob/main/LICENSE)" in readme
    assert project_urls.main([url, "--tree", str(tmp_path)]) == 2  # once
    assert project_urls.main(["nothing", "--tree", str(ROOT)]) == 2


def test_notes_are_an_index_of_pages_that_begin_with_what_was_decided() -> None:
    """Each with a table of decision, why, figure, machine and date before any other."""
    listed = re.findall(r"\]\(docs/notes/(\w+)\.md\)", (ROOT / "NOTES.md").read_text())
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "notes").glob("*.md")}
    assert sorted(listed) == sorted(pages) and len((ROOT / "NOTES.md").read_text().splitlines()) < 50
    contents = (ROOT / "mkdocs.yml").read_text()
    for name, text in pages.items():
        head = next(line for line in text.splitlines() if line.startswith("|"))
        assert all(word in head for word in ("decision", "why", "figure", "machine and date")), name
        assert f"- notes/{name}.md\n" in contents


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_run_what_is_there(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / name).read_text()
    for path in re.findall(r"(?:run: |python )(\.ci/\w+|tools/\w+\.py)", text):
        assert Path(ROOT, path).exists()
    assert "permissions:" in text and "timeout-minutes:" in text
