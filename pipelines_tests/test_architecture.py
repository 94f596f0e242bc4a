"""Imports between the folders go one way only, and the folders refuse their bare names."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(importlib.util.find_spec("scoresde_pipelines").origin).parent
FOLDERS = ("schedulers", "models", "training")
# What each folder may import of its siblings.
ARROWS = {"schedulers": set(), "models": {"schedulers"}, "training": {"models", "schedulers"}}


def folder(name: str) -> Path:
    """Of an installed package the subpackage, in a checkout the sibling."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def sources(name: str) -> list[Path]:
    files = sorted(folder(name).rglob("*.py"))
    assert files
    return files


def imported(path: Path, package: str) -> set[str]:
    """Absolute names of everything that a file imports, relative imports resolved."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", FOLDERS)
def test_arrows_run_one_way(name):
    for path in sources(name):
        package = ".".join(("scoresde_pipelines", name, *path.relative_to(folder(name)).parent.parts))
        for module in imported(path, package):
            parts = module.split(".")
            assert parts[0] not in FOLDERS, f"{path.name} imports the bare name {module}"
            if parts[0] != "scoresde_pipelines" or len(parts) < 2:
                continue
            allowed = ARROWS[name] | {name}
            assert parts[1] in allowed, f"{name}/{path.name} imports {module}"


def test_the_fast_convolutions_are_imported_in_one_line():
    users = [
        path.name
        for path in sources("models")
        if path.parent.name != "fast_cpu"
        for line in path.read_text("utf-8").splitlines()
        if line.lstrip().startswith(("from", "import")) and "fast_cpu" in line
    ]
    assert users == ["convolution.py"]


def test_the_mathematics_needs_torch_and_numpy_alone():
    allowed = {"torch", "numpy", "scoresde_pipelines", *sys.stdlib_module_names}
    for path in sources("schedulers"):
        for module in imported(path, "scoresde_pipelines.schedulers"):
            top = module.split(".")[0]
            assert top in allowed | ({"diffusers"} if path.name.startswith("scheduling_") else set()), (
                f"schedulers/{path.name} imports {module}"
            )
            # Stateless functions of torch.nn.functional are fine; layers are not.
            assert not module.startswith("torch.nn") or module.startswith("torch.nn.functional"), (
                f"schedulers/{path.name} imports {module}"
            )


def test_no_code_asks_which_sde_it_has():
    for name in (*FOLDERS, "."):
        for path in sources(name) if name != "." else sorted(PACKAGE.glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass", "type"):
                    asked = [n.id for argument in node.args for n in ast.walk(argument) if isinstance(n, ast.Name)]
                    asked += [
                        n.attr for argument in node.args for n in ast.walk(argument) if isinstance(n, ast.Attribute)
                    ]
                    names = {"SDE", "VESDE", "VPSDE", "SubVPSDE", "DiscreteVPSDE", "sde"}
                    assert not names & set(asked), f"{path.name}:{node.lineno} asks for the kind of an SDE"


@pytest.mark.parametrize("name", FOLDERS)
def test_bare_names_are_refused(name):
    code = f"import sys; sys.path.insert(0, {str(folder(name).parent)!r}); import {name}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder(name).parent)
    assert result.returncode != 0
    assert f"import scoresde_pipelines.{name} instead of {name}" in result.stderr


def test_no_module_is_named_after_a_library():
    # A script run by path puts its own folder first on sys.path.
    taken = {
        *sys.stdlib_module_names,
        "datasets",
        "accelerate",
        "torch",
        "numpy",
        "diffusers",
        "transformers",
        "typer",
    }
    for path in sources("training"):
        assert path.stem not in taken


def test_everything_public_is_importable_from_the_package():
    import scoresde_pipelines

    for name in scoresde_pipelines.__all__:
        assert hasattr(scoresde_pipelines, name)
    expected = {
        "VESDEScheduler",
        "VPSDEScheduler",
        "SubVPSDEScheduler",
        "NCSNpp",
        "DDPMpp",
        "ScoreSdePipeline",
        "shipped",
    }
    assert expected <= set(scoresde_pipelines.__all__)
    # Attributes that diffusers asks for, and `import *` does not bring.
    for name in ("ModelMixin", "SchedulerMixin"):
        assert hasattr(scoresde_pipelines, name) and name not in scoresde_pipelines.__all__
