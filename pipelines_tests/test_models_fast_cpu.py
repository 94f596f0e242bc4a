"""Without the folder `fast_cpu` and the one line that imports it, the networks compute the same."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scoresde_pipelines.models import DDPMpp, NCSNpp, NCSNv2, NoiseConditionalClassifier, packed_filters
from scoresde_pipelines.models.fast_cpu import layer, layout, packing


PACKAGE = Path(importlib.util.find_spec("scoresde_pipelines").origin).parent
CODE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
import scoresde_pipelines
from scoresde_pipelines import models

folder = Path(sys.argv[1])
assert Path(scoresde_pipelines.__file__).is_relative_to(folder)
inputs = load_file(folder / "inputs.safetensors")
results = {}
for path in sorted(folder.glob("network_*")):
    network = getattr(models, path.name.partition("_")[2]).from_pretrained(path)
    assert not any("fast_cpu" in type(layer).__module__ for layer in network.modules())
    with torch.no_grad(), models.packed_filters(network):
        results[path.name] = network(inputs["x"], inputs["t"], return_dict=False)[0].contiguous()
save_file(results, folder / "results.safetensors")
"""


def networks() -> list[torch.nn.Module]:
    torch.manual_seed(2)
    widths = {"block_out_channels": (32, 64), "layers_per_block": 1, "init_scale": 1.0}
    return [
        NCSNpp(**widths),
        DDPMpp(**widths),
        NCSNv2(block_out_channels=(24, 24, 32, 32)),
        NoiseConditionalClassifier(depth=10, width=2),
    ]


def copy_without_the_folder(target: Path) -> None:
    inside = (PACKAGE / "models").is_dir()
    shutil.copytree(PACKAGE, target / "scoresde_pipelines", ignore=shutil.ignore_patterns("pretrained", "__pycache__"))
    if not inside:
        for name in ("schedulers", "models", "training"):
            shutil.copytree(PACKAGE.parent / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    models = target / "scoresde_pipelines" / "models" if inside else target / "models"
    shutil.rmtree(models / "fast_cpu")
    file = models / "convolution.py"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("from .fast_cpu")]
    assert len(kept) == len(lines) - 1
    file.write_text("".join(kept), "utf-8")


def test_the_folder_and_one_line_can_be_deleted(tmp_path: Path) -> None:
    copy_without_the_folder(tmp_path)
    x, t = torch.rand(8, 3, 32, 32), torch.linspace(0.1, 5.0, 8)
    save_file({"x": x, "t": t}, tmp_path / "inputs.safetensors")
    expected = {}
    for network in networks():
        name = f"network_{type(network).__name__}"
        network.eval().save_pretrained(tmp_path / name)
        with torch.no_grad(), packed_filters(network):
            expected[name] = network(x, t, return_dict=False)[0]
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = load_file(tmp_path / "results.safetensors")
    assert set(results) == set(expected)
    for name, value in expected.items():
        assert (results[name] - value).abs().max() < 1e-5 * value.abs().max(), name


@torch.no_grad()
def test_without_the_private_operations_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks()[0].eval()
    x, t = torch.rand(4, 3, 32, 32), torch.linspace(0.1, 5.0, 4)
    expected = network(x, t).sample
    monkeypatch.setattr(layout, "_LEVEL", None)
    monkeypatch.setattr(packing, "CAN_PACK", False)
    with packed_filters(network):
        assert not packing.PACKED
        assert (network(x, t).sample - expected).abs().max() < 1e-5 * expected.abs().max()
    assert any(isinstance(module, layer.FastConv2d) for module in network.modules())
