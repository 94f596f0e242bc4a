"""An SDE of one's own with a parameter of its own, in a file of its own: trained by its name, saved, loaded, sampled,
measured and inpainted."""

import importlib
import math
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from scoresde_pipelines import (
    GaussianScoreModel,
    ScoreSdeInpaintPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
)
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.pipeline_folder import load_pipeline_folder
from scoresde_pipelines.training.train_unconditional import main
from scoresde_pipelines.training.trainer import Trainer


SOURCE = """import torch
from diffusers.configuration_utils import register_to_config
from scoresde_pipelines import SDE, SDEScheduler
class WarpSDE(SDE):
    def __init__(self, power): self.power = power
    def alpha(self, t): return 1 - 0.95 * t**self.power
    def sigma(self, t): return (0.95 * t**self.power * (1 + self.alpha(t))).sqrt()
class WarpScheduler(SDEScheduler):
    @register_to_config
    def __init__(self, power: float = 2.0, **kwargs): super().__init__(**kwargs)
    def make_sde(self): return WarpSDE(self.config.power)
"""
OBJECTIVE = """
from scoresde_pipelines.training.objectives import Objective
def flat(sde, t): return sde.sigma(t) ** 2 * 0 + 1
FLAT = Objective(flat, name="flat")
"""
OPTIONS = ["--block_out_channels", "8", "--layers_per_block", "1", "--attention_resolutions", "--resolution", "4"]
OPTIONS += [
    "--train_batch_size",
    "4",
    "--eval_batch_size",
    "0",
    "--cpu",
    "--report_to",
    "none",
    "--max_train_steps",
    "2",
]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's folder with `my_sde.py` and images, as the current one."""
    (tmp_path / "my_sde.py").write_text(SOURCE + OBJECTIVE)
    (tmp_path / "images").mkdir()
    for k in range(4):
        Image.fromarray(np.full((4, 4, 3), 60 * k, dtype=np.uint8)).save(tmp_path / "images" / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    AcceleratorState._reset_state(reset_partial_state=True)
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)
    sys.modules.pop("my_sde", None)


def test_it_takes_twelve_lines():
    assert len(SOURCE.strip().splitlines()) <= 12


def test_it_trains_by_its_name_saves_loads_samples_measures_and_inpaints(module):
    options = ["--train_data_dir", "images", "--output_dir", "run", *OPTIONS, "--scheduler_options", "power=3.5"]
    main([*options, "--sde", "my_sde:WarpScheduler", "--objective", "my_sde:FLAT"])
    loaded = load_pipeline_folder("run").scheduler
    assert type(loaded).__name__ == "WarpScheduler" and loaded.sde.power == 3.5
    pipeline = ScoreSdePipeline.from_pretrained("run")
    assert pipeline.scheduler.config.power == 3.5 and pipeline.scheduler.sde.power == 3.5
    # Its samples with the exact score of Gaussian data are Gaussian.
    data = GaussianScoreModel(torch.full((3, 4, 4), 0.25), 0.04)
    pipeline = ScoreSdePipeline(data.network(loaded), loaded, data_min=-1.0, data_max=1.0)
    pipeline.set_progress_bar_config(disable=True)
    x = pipeline(64, 100, generator=torch.Generator().manual_seed(0), output_type="latent").images
    assert x.mean().item() == pytest.approx(0.25, abs=0.03) and x.std().item() == pytest.approx(0.2, rel=0.1)
    # Its likelihood is that of the flow z = alpha m + s (x - m) / 0.2 with the prior N(0, sigma^2) of z, in bits.
    likelihood = ScoreSdeLikelihoodPipeline.from_pipe(pipeline, data_min=-1.0, data_max=1.0)
    output = likelihood(torch.full((1, 3, 4, 4), 0.6), levels=None, dequantization="none", divergence="exact")
    alpha, variance = 0.05, 1 - 0.05**2
    scale = math.sqrt(alpha**2 * 0.04 + variance) / 0.2
    z = alpha * 0.25 + scale * 0.35
    nats = z**2 / (2 * variance) + 0.5 * math.log(2 * math.pi * variance) - math.log(scale)
    assert output.bits_per_dim.item() == pytest.approx(nats / math.log(2), abs=1e-4)
    # Inpainting keeps the known half and draws the other half from N(0.25, 0.2^2), the posterior of independent pixels.
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    inpaint = ScoreSdeInpaintPipeline.from_pipe(pipeline)
    options = {"num_samples": 64, "num_inference_steps": 100, "output_type": "latent"}
    x = inpaint(torch.full((1, 3, 4, 4), 0.8), mask, generator=torch.Generator().manual_seed(2), **options).images
    torch.testing.assert_close(x[..., :2], torch.full_like(x[..., :2], 0.6))
    assert x[..., 2:].mean().item() == pytest.approx(0.25, abs=0.03)
    assert x[..., 2:].std().item() == pytest.approx(0.2, rel=0.1)
    card = (module / "run" / "README.md").read_text()
    assert "`WarpScheduler`" in card and "import my_sde  # defines WarpScheduler" in card
    assert "--sde my_sde:WarpScheduler" in card and "- objective: flat" in card


def test_it_trains_from_python_and_is_fine_tuned(module):
    sys.path.insert(0, str(module))
    scheduler = importlib.import_module("my_sde").WarpScheduler(power=1.5, prediction_type="v_prediction")
    args = parse_args(["--train_data_dir", "images", "--output_dir", "first", *OPTIONS])
    run = Trainer(args, scheduler=scheduler)
    assert run.network.config.time_embedding_type == "positional"  # by the scheduler's time convention
    run.train()
    run.finish()
    AcceleratorState._reset_state(reset_partial_state=True)
    main(
        [
            "--train_data_dir",
            "images",
            "--output_dir",
            "second",
            "--pretrained_model_name_or_path",
            "first",
            *OPTIONS[5:],
        ]
    )
    tuned = load_pipeline_folder("second").scheduler
    assert tuned.sde.power == 1.5 and tuned.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    "name, message",
    [
        ("my_sde:Nothing", "sde must be something that can be imported, got 'my_sde:Nothing'"),
        ("my_sde:WarpSDE", r"sde must be one of .* or a subclass of SDEScheduler, got 'my_sde:WarpSDE'"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused(module, name, message):
    with pytest.raises(ValueError, match=message):
        main(["--train_data_dir", "images", "--output_dir", "run", *OPTIONS, "--sde", name])


def test_a_name_that_is_neither_known_nor_of_a_module_is_refused(module, capsys):
    with pytest.raises(SystemExit):
        main(["--train_data_dir", "images", "--output_dir", "run", *OPTIONS, "--sde", "cosine"])
    assert "--sde must be one of ve, vp, subvp, or module:name, got 'cosine'" in capsys.readouterr().err
