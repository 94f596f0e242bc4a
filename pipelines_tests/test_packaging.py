"""Every way of running: wheel, sdist, bare checkout; and that one name alone is installed."""

import os
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
    "assert p.VPSDEScheduler is a is b; import scoresde_pipelines.training.evaluation, scoresde_pipelines.models; "
    "print(p.__file__)"
)


def python(code: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess:
    # -I -S would also hide the dependencies; -P alone keeps the working directory out, PYTHONPATH says what is tested.
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A wheel and an sdist, built from a copy of what git would ship."""
    pytest.importorskip("setuptools", reason="building needs setuptools")
    source, target = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    names = ("scoresde_pipelines", "schedulers", "models", "training", "setup.py", "pyproject.toml", "README.md")
    source.mkdir()
    for name in (*names, "LICENSE", "MANIFEST.in", "constraints.txt"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    build = "from setuptools import build_meta as b; b.build_sdist({0!r}); b.build_wheel({0!r})".format(str(target))
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def test_the_wheel_installs_one_name_and_works_from_anywhere(distributions, tmp_path):
    wheel = next(distributions.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"scoresde_pipelines"}
    for needed in (
        "py.typed",
        "schedulers/sde.py",
        "models/ncsnpp.py",
        "training/train_unconditional.py",
        "training/evaluation/kid.py",
    ):
        assert f"scoresde_pipelines/{needed}" in names
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
    for needed in ("setup.py", "README.md", "LICENSE", "schedulers/sde.py", "models/ncsnpp.py", "training/losses.py"):
        assert needed in names
    assert "training/evaluation/kid.py" in names


def test_a_bare_checkout_works():
    done = python(SAME_CLASS, ROOT)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == "__init__.py"


@pytest.mark.parametrize("name", ["schedulers", "models", "training"])
def test_the_bare_folder_names_refuse_to_be_imported(name):
    done = python(f"import {name}", ROOT, path=str(ROOT))
    assert done.returncode != 0
    assert f"scoresde_pipelines.{name}" in done.stderr.splitlines()[-1]
