"""Every way of running: wheel, sdist, bare checkout; that one name alone is installed; and the versions promised."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")

SAME_CLASS = (
    "import scoresde_pipelines as p; from scoresde_pipelines.schedulers import VPSDEScheduler as a; "
    "from scoresde_pipelines.schedulers.scheduling_vp_sde import VPSDEScheduler as b; "
    "assert p.VPSDEScheduler is a is b; import scoresde_pipelines.training, scoresde_pipelines.models; print(p.__file__)"
)


def python(code: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess:
    # -I -S would also hide the dependencies; -P alone keeps the working directory out, PYTHONPATH says what is tested.
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A wheel and an sdist, built from a copy of the tree without what git ignores."""
    pytest.importorskip("setuptools", reason="building needs setuptools")
    source, target = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    ignored = [".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "demo_output", "runs"]
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*ignored))
    build = "from setuptools import build_meta as b; b.build_sdist({0!r}); b.build_wheel({0!r})".format(str(target))
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def test_the_wheel_installs_one_name_and_works_from_anywhere(distributions, tmp_path):
    wheel = next(distributions.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"scoresde_pipelines"}
    folders = {"scoresde_pipelines": "scoresde_pipelines"}
    folders |= {name: f"scoresde_pipelines/{name}" for name in ("schedulers", "models", "training")}
    for folder, installed in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{installed}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert "scoresde_pipelines/py.typed" in names
    weights = [name for name in names if name.endswith(".safetensors")]
    assert len([name for name in weights if "/unet/" in name]) == 2

    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = python(SAME_CLASS, elsewhere, path=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "site" / "scoresde_pipelines" / "__init__.py"
    shipped = python("import scoresde_pipelines as p; print(*p.shipped())", elsewhere, path=str(tmp_path / "site"))
    assert shipped.stdout.split() == ["emoji-32-ve", "fashion-mnist-32-vp"], shipped.stderr


def test_the_sdist_holds_what_the_wheel_is_built_from(distributions):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for folder in ("scoresde_pipelines", "schedulers", "models", "training", "pipelines_tests", "benchmarks", "docs"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert files and {path.relative_to(ROOT).as_posix() for path in files} <= names
    assert {"setup.py", "pyproject.toml", "Makefile", "constraints.txt", "constraints-oldest.txt"} <= names
    assert {"README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_oldest_versions_are_those_that_setup_py_allows():
    # The oldest environment has no ruff, mypy, torch-fidelity and gradio; an older torch is not to be had for the CPU.
    bounds = dict(re.findall(r'"([a-z][a-z0-9-]*)>=([0-9.]+)"', (ROOT / "setup.py").read_text("utf-8")))
    oldest, tested = (
        dict(re.findall(r"^([a-z][a-z0-9-]*)==([0-9.]+)$", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in ("constraints-oldest.txt", "constraints.txt")
    )
    elsewhere = {"torch", "ruff", "mypy", "torch-fidelity", "gradio"}
    bounds = {name: version for name, version in bounds.items() if name not in elsewhere}
    assert len(bounds) > 10 and set(bounds) == set(oldest) - {"torch"}
    assert oldest["torch"] == tested["torch"]
    for name, version in bounds.items():
        assert _numbers(oldest[name]) == _numbers(version), name
        assert name not in tested or _numbers(tested[name]) >= _numbers(version), name


def test_the_version_is_the_same_everywhere():
    version = re.search(r'__version__ = "(.+)"', (ROOT / "scoresde_pipelines" / "__init__.py").read_text("utf-8"))[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def _numbers(version: str) -> tuple[int, ...]:
    """(1, 2) of 1.2, 1.2.0 and 1.2.0.0."""
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", version).split("."))


def test_a_bare_checkout_works():
    done = python(SAME_CLASS, ROOT)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == "__init__.py"


@pytest.mark.parametrize("name", ["schedulers", "models", "training"])
def test_the_bare_folder_names_refuse_to_be_imported(name):
    done = python(f"import {name}", ROOT, path=str(ROOT))
    assert done.returncode != 0
    assert f"scoresde_pipelines.{name}" in done.stderr.splitlines()[-1]
