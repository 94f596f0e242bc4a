"""Every code block of the README, of CONTRIBUTING.md and of the docs runs, and stated numbers of lines are true."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<mark><!-- not run: [^>]+ -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)```", re.DOTALL)
# A page that begins with this has blocks that use names of earlier ones; they run in one process, in order.
ONE_SESSION = "<!-- one session -->"
SESSIONS = [page for page in PAGES if page.is_file() and page.read_text("utf-8").startswith(ONE_SESSION)]
BLOCKS = [
    pytest.param(
        block["language"],
        block["code"],
        id=f"{page.stem}-{number}",
        marks=[pytest.mark.skip(reason=block["mark"].strip("<!- >\n"))] if block["mark"] else [],
    )
    for page in PAGES
    if page.is_file() and not page.read_text("utf-8").startswith(ONE_SESSION)
    for number, block in enumerate(BLOCK.finditer(page.read_text("utf-8")))
]
# The set-up itself: `.ci/run` and the packaging tests run these.
SET_UP = re.compile(r"^(make \w+|pip install .*)$")


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_block_runs(language, code, tmp_path):
    if language == "python":
        command = [sys.executable, "-c", code]
    else:
        assert language == "bash", f"a code block in {language} cannot be tested"
        lines = [line.split("#")[0].strip() for line in code.splitlines()]
        script = "\n".join(line for line in lines if line and not SET_UP.match(line))
        if not script:
            return
        _picture_folder(tmp_path / "my_images")
        # The checkout's own command, also where the package is not installed.
        command = ["bash", "-euc", 'scoresde() { python -m scoresde_pipelines.cli "$@"; }\n' + script]
    _run(command, tmp_path)


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.stem)
def test_page_runs_from_top_to_bottom(page, tmp_path):
    parts = [
        block["code"]
        if block["language"] == "python"
        else f"__import__('subprocess').run(['bash', '-euc', {block['code']!r}], check=True)\n"
        for block in BLOCK.finditer(page.read_text("utf-8"))
    ]
    _run([sys.executable, "-c", "\n".join(parts)], tmp_path)


def _run(command: list[str], folder: Path) -> None:
    # One thread: two of them wait for each other at length where other tests run beside this one.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


def test_the_extensions_of_contributing_are_as_long_as_stated():
    page = ROOT / "CONTRIBUTING.md"
    if not page.is_file():
        pytest.skip("needs the source tree")
    sections = re.findall(
        r"^### [^\n]+ \((\d+) lines\)\n(.*?)(?=^##)", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(sections) == 6
    for lines, text in sections:
        nodes = ast.parse(BLOCK.search(text)["code"]).body
        own = [node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        first = [min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) for node in own]
        assert sum(node.end_lineno - start + 1 for node, start in zip(own, first)) == int(lines), text[:60]


def test_the_pages_show_pictures_that_exist():
    for page in filter(Path.is_file, PAGES):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}"


def _picture_folder(folder: Path) -> None:
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 255 - 30 * i, 128)).save(folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "8.png")
