"""Hook of mkdocs.yml: what a page links to beside docs/ becomes a page of the site.

On the project's own pages such links are relative (`../examples/compose.yaml`), so that they work in a clone and in its
repository. The site has a page for each of these files: the text of a Markdown file, or the file as code.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?P<path>[^()\s:#]+)(?=#[^()\s]*\)|\))")
FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
FOLDER = "repository"  # of the site, with the paths of the repository below
LANGUAGES = {".yaml": "yaml", ".py": "python", ".sh": "sh", ".toml": "toml"}


def links(text: str) -> list[str]:
    """Return the paths that a page links to, without anchors."""
    return [match["path"] for match in LINK.finditer(FENCED.sub("", text))]


def resolve(page: str, link: str) -> str:
    """Return what a link of a page means, both as paths of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def site_path(path: str) -> str:
    """Return the path below docs/ of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{FOLDER}/{path}" if path.endswith(".md") else f"{FOLDER}/{path}.md"


def _source(file: File) -> str:
    """Return the path in the repository of a page of the site."""
    if file.src_uri.startswith(f"{FOLDER}/"):
        path = file.src_uri.removeprefix(f"{FOLDER}/")
        return path if (ROOT / path).is_file() else path.removesuffix(".md")
    return f"docs/{file.src_uri}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages for files beside docs/, and for those that these link to."""
    seen: set[str] = set()
    todo = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while todo:
        page = todo.pop()
        if not page.endswith(".md"):
            continue
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            path = resolve(page, link)
            if path.startswith("docs/") or path in seen:
                continue
            seen.add(path)
            target = ROOT / path
            if not target.is_relative_to(ROOT) or not target.exists():
                raise PluginError(f"{page} links to {link}, which does not exist")
            if target.is_dir():
                names = sorted(each.name + "/" * each.is_dir() for each in target.iterdir() if each.name[0] not in "._")
                content = f"# {path}/\n\n" + "\n".join(f"- `{name}`" for name in names)
            elif target.suffix == ".md":
                content = target.read_text(encoding="utf-8")
                todo.append(path)
            else:
                content = f"# {path}\n\n````{LANGUAGES.get(target.suffix, 'text')}\n{target.read_text(encoding='utf-8')}````\n"
            added = File.generated(config, site_path(path), content=content)
            added.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs passes them by name
    """Point the links of a page to the pages of the site."""
    source = _source(page.file)
    here = posixpath.dirname(page.file.src_uri)

    def point(match: re.Match[str]) -> str:
        path = resolve(source, match["path"])
        inside = source.startswith("docs/") and path.startswith("docs/")
        return match["path"] if inside else posixpath.relpath(site_path(path), here or ".")

    pieces: list[str] = []
    end = 0
    for block in FENCED.finditer(markdown):
        pieces += [LINK.sub(point, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*pieces, LINK.sub(point, markdown[end:])])
