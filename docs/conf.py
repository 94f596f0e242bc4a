"""Sphinx: the Markdown pages of this folder, and the API reference from the docstrings."""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "scoresde_pipelines"
author = "The scoresde_pipelines developers"
release = version = import_module("scoresde_pipelines").__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"scoresde_pipelines {release}"
default_role = "literal"  # docstrings have single backticks
autodoc_typehints = "none"  # docstrings say types, shapes and units
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are not described twice

PATTERN = re.compile(r"^[\w-]+\*$", re.MULTILINE)  # of the contents
BEFORE_NAPOLEON = 400  # napoleon converts the sections Args, Returns, Raises at 500
CARD = re.compile(r"\[([^\]]+)\]\(\.\./(scoresde_pipelines/[^)]+)\)")  # files that are no pages
INCLUDED = re.compile(r"```\{include\} \.\./(\w+\.md)\n```")


def setup(app: Any) -> None:
    """Connects the two conversions below."""
    app.connect("autodoc-process-docstring", fences_and_stars, priority=BEFORE_NAPOLEON)
    app.connect("source-read", include_and_link)


def fences_and_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring's Markdown, in place: fences become code blocks, stars and bars are escaped."""
    result, fenced = [], False
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        if line.strip().startswith("```"):
            fenced = not fenced
            result += ["", f"{indent}.. code-block:: python", ""] if fenced else [""]
        elif fenced:
            result.append("    " + line if line.strip() else "")
        else:
            result.append(_escaped(line))
    lines[:] = result


def _escaped(line: str) -> str:
    # Outside of backticks `*D` and `|x|` are no markup; `*optional*` is.
    parts = line.split("`")
    parts[::2] = [re.sub(r"[*|]|(?<=\w)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts).replace(r"\*optional\*", "*optional*")


def include_and_link(app: Any, page: str, source: list[str]) -> None:
    """Includes a file of the root with its links to other files as they are from this folder."""
    text = INCLUDED.sub(lambda found: (ROOT / found[1]).read_text("utf-8"), source[0])
    text = re.sub(r"\]\(docs/", "](", text)
    # A pattern without a page is a warning.
    text = PATTERN.sub(lambda found: found[0] if list(ROOT.glob(f"docs/{found[0]}.md")) else "", text)
    text = CARD.sub(r"\1 (`\2`)", text)
    source[0] = re.sub(r"\]\((?:\.\./)?(CONTRIBUTING|CHANGELOG)\.md", lambda link: f"]({link[1].lower()}.md", text)
