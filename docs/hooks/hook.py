"""MkDocs' hook: adds the pages that are not files of docs/, and checks what was built."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# MkDocs runs this file by itself.
sys.path.insert(0, str(Path(__file__).parents[2]))

from docs.hooks import offline, pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the READMEs of the folders, the generated pages and the files that pages link to."""
    for place, text in pages.added_pages().items():
        files.append(File.generated(config, place, content=text))
    for name in sorted(pages.linked_files()):
        copy = pages.place_of_file(name)
        files.append(File.generated(config, copy, abs_src_path=str(pages.ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fit a page that is written for the repository to the site."""
    return pages.fitted(markdown, page.file.src_uri)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a built page would ask the network for something."""
    if asked := offline.asked_of_the_network(Path(config.site_dir)):
        raise PluginError("pages ask the network for something: " + "; ".join(asked))
