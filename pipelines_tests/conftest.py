"""Shared by all tests: where the reference figures lie, and one thread with fixed seeds."""

import importlib.util
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch


ROOT = Path(__file__).resolve().parents[1]

if importlib.util.find_spec("scoresde_pipelines") is None:
    # A bare checkout under plain `pytest`; an installed wheel or `python -m pytest` is found already.
    sys.path.insert(0, str(ROOT))

sys.path.append(str(ROOT / "benchmarks"))  # known_truths: benchmarks and tests measure the same

# Tiny tensors: more threads cost more than they bring, and sums keep one order.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with `golden/`, the figures recorded from the official code; skips the test where there is none."""
    folder = Path(os.environ.get("SCORESDE_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference figures in {folder}: set SCORESDE_SHARED to the folder that holds golden/")
    return folder


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A GPU for the tests of test_cuda*.py, which are skipped without one.

    With `SCORESDE_TEST_DEVICE=cpu` they run on the CPU, and compare it with itself: whoever has no GPU checks their logic.
    """
    name = os.environ.get("SCORESDE_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; SCORESDE_TEST_DEVICE=cpu runs the same code on the CPU")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is then deterministic where that is asked for
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """A test that trains begins, and leaves, without the process-wide state of Accelerate."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same global random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def command_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8 x 8 colour images with two classes, two pictures, a small one and a mask."""
    from PIL import Image

    from scoresde_pipelines import NCSNpp, ScoreSdePipeline, VESDEScheduler

    path = tmp_path_factory.mktemp("commands")
    torch.manual_seed(0)
    network = NCSNpp(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, num_class_embeds=2)
    # Preconditioned: also a network of random weights then makes pictures that are not all black or white.
    scheduler = VESDEScheduler(sigma_max=10.0, prediction_type="edm", sigma_data=0.25, data_mean=0.5)
    pipe = ScoreSdePipeline(network.eval(), scheduler, id2label={0: "cat", 1: "dog"})
    pipe.save_pretrained(path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels):
        Image.fromarray(image).save(path / f"{name}.png")
    Image.fromarray(pixels[0, :4, :4]).save(path / "small.png")
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(path / "mask.png")
    return path
