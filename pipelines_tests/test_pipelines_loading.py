"""Pipelines saved, reloaded, and read from the layouts that exist on the Hub."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoModel, DDIMScheduler, DDPMPipeline, DDPMScheduler, ScoreSdeVeScheduler, UNet2DModel
from diffusers.pipelines import pipeline_loading_utils
from diffusers.schedulers.deprecated import ScoreSdeVpScheduler

import scoresde_pipelines
from scoresde_pipelines import (
    DDPMpp,
    NCSNpp,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    to_sde_scheduler,
)
from scoresde_pipelines.training.model_names import ModelNotFoundError
from scoresde_pipelines.training.pipeline_loading import load_pipeline_folder


TINY = {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "attention_resolutions": (4,)}


def pipeline(kind: str) -> ScoreSdePipeline:
    torch.manual_seed(0)
    if kind == "ve":
        return ScoreSdePipeline(
            NCSNpp(**TINY).eval(), VESDEScheduler(sigma_max=50.0, snr=0.1), data_min=-0.5, data_max=2.0
        )
    if kind == "vp":
        return ScoreSdePipeline(DDPMpp(**TINY).eval(), VPSDEScheduler(continuous=True, predictor="euler_maruyama"))
    if kind == "subvp":
        return ScoreSdePipeline(DDPMpp(**TINY, num_class_embeds=3).eval(), SubVPSDEScheduler(corrector="langevin"))
    return ScoreSdePipeline(unet(), DDPMScheduler(beta_end=0.015))


def unet(time_embedding_type: str = "positional") -> UNet2DModel:
    """A google/ncsnpp-like network, small; "fourier" is for sigmas alone (it takes their logarithm)."""
    torch.manual_seed(1)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        time_embedding_type=time_embedding_type,
        center_input_sample=True,
        norm_num_groups=None,
        mid_block_scale_factor=2**0.5,
        attention_head_dim=None,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    ).eval()


def draw(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return torch.as_tensor(
        pipe(batch_size=2, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
    )


# ---------------------------------------------------------------------- our own folders


@pytest.mark.parametrize("safe_serialization", [True, False])
@pytest.mark.parametrize("kind", ["ve", "vp", "subvp", "unet"])
def test_a_saved_pipeline_draws_the_same_images(kind, safe_serialization, tmp_path):
    pipe = pipeline(kind)
    pipe.save_pretrained(tmp_path, safe_serialization=safe_serialization)
    loaded = ScoreSdePipeline.from_pretrained(tmp_path, use_safetensors=safe_serialization)
    assert torch.equal(draw(loaded), draw(pipe))
    assert (loaded.config.data_min, loaded.config.data_max) == (pipe.config.data_min, pipe.config.data_max)
    assert without_marks(pipe.scheduler.config) == without_marks(loaded.scheduler.config)


def without_marks(config) -> dict:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def test_the_log_of_diffusers_names_every_component_that_is_loaded(tmp_path, caplog, monkeypatch):
    pipeline("ve").save_pretrained(tmp_path)
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, logger.name)
    ScoreSdePipeline.from_pretrained(tmp_path)
    for line in (
        f"Loaded scheduler as VESDEScheduler from {tmp_path}.",
        f"Loaded unet as NCSNpp from {tmp_path / 'unet'}.",
    ):
        assert line in caplog.messages


@pytest.mark.parametrize(
    "given", [torch.bfloat16, {"unet": torch.bfloat16}, {"default": torch.bfloat16, "x": torch.half}]
)
def test_a_dtype_may_be_given_by_the_component_s_name(given, tmp_path):
    pipeline("ve").save_pretrained(tmp_path)
    assert ScoreSdePipeline.from_pretrained(tmp_path, torch_dtype=given).unet.dtype == torch.bfloat16
    other = ScoreSdePipeline.from_pretrained(tmp_path, torch_dtype={"scheduler": torch.bfloat16})
    assert other.unet.dtype == torch.float32


def test_a_variant_that_is_not_there_is_refused(tmp_path):
    pipe = pipeline("ve")
    pipe.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"variant must be .* load the model files of the `variant=fp16`, but no such"
    ):
        ScoreSdePipeline.from_pretrained(tmp_path, variant="fp16")
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert torch.equal(draw(ScoreSdePipeline.from_pretrained(tmp_path / "half", variant="fp16")), draw(pipe))


def test_the_index_names_the_package_and_nothing_else(tmp_path):
    pipeline("ve").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["scoresde_pipelines", "NCSNpp"]
    assert index["scheduler"] == ["scoresde_pipelines", "VESDEScheduler"]
    assert index["_class_name"] == "ScoreSdePipeline"


def test_stock_classes_load_our_folders(tmp_path):
    pipe = pipeline("vp")
    pipe.save_pretrained(tmp_path)
    stock = DDPMPipeline.from_pretrained(tmp_path)
    assert type(stock.unet) is DDPMpp and type(stock.scheduler) is VPSDEScheduler
    torch.testing.assert_close(draw(stock), draw(pipe))
    model = AutoModel.from_pretrained(str(tmp_path), subfolder="unet")
    assert type(model) is DDPMpp
    for ours, theirs in zip(pipe.unet.parameters(), model.parameters()):
        assert torch.equal(ours, theirs)


def test_half_precision_is_asked_for_as_anywhere(tmp_path):
    pipeline("vp").save_pretrained(tmp_path)
    assert ScoreSdePipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_components_can_be_replaced_while_loading(tmp_path):
    pipe = pipeline("vp")
    pipe.save_pretrained(tmp_path)
    scheduler = VPSDEScheduler.from_config(pipe.scheduler.config, predictor="exponential")
    loaded = ScoreSdePipeline.from_pretrained(tmp_path, scheduler=scheduler, unet=pipe.unet)
    assert loaded.scheduler is scheduler and loaded.unet is pipe.unet


def test_diffusers_still_keeps_the_table_we_register_in():
    # Semi-private: without it saved pipelines do not load from the Hub (diffusers#5728). If this fails, diffusers has
    # changed how it finds foreign classes, and registration.py must follow.
    table = pipeline_loading_utils.LOADABLE_CLASSES
    assert table["scoresde_pipelines"] == {
        "ModelMixin": ["save_pretrained", "from_pretrained"],
        "SchedulerMixin": ["save_pretrained", "from_pretrained"],
    }
    assert table["scoresde_pipelines"].items() <= table["diffusers"].items()


# ---------------------------------------------------------------------- folders of other makers


def write_layout(folder: Path, key: str, flat: bool, scheduler) -> UNet2DModel:
    """A repository like google/ncsnpp-*: flat or in subfolders, the network under `unet` or `model`, weights as .bin."""
    network = unet("fourier" if isinstance(scheduler, ScoreSdeVeScheduler) else "positional")
    network.save_pretrained(folder if flat else folder / key, safe_serialization=False)
    scheduler.save_pretrained(folder if flat else folder / "scheduler")
    index = {
        "_class_name": "ScoreSdeVePipeline",
        "_diffusers_version": "0.1.1",
        key: ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return network


@pytest.mark.parametrize("key", ["unet", "model"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    "scheduler",
    [
        ScoreSdeVeScheduler(sigma_max=378.0, snr=0.075),
        ScoreSdeVpScheduler(),
        DDPMScheduler(variance_type="fixed_large"),
        DDIMScheduler(),
    ],
    ids=["ve", "vp", "ddpm", "ddim"],
)
def test_either_layout_and_either_key(key, flat, scheduler, tmp_path):
    network = write_layout(tmp_path, key, flat, scheduler)
    pipe = ScoreSdePipeline.from_pretrained(tmp_path)
    assert set(pipe.components) == {"unet", "scheduler"}
    for ours, theirs in zip(pipe.unet.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    if isinstance(scheduler, ScoreSdeVeScheduler):
        assert type(pipe.scheduler) is VESDEScheduler and pipe.scheduler.sde.sigma_max == 378.0
        assert (pipe.config.data_min, pipe.config.data_max) == (0.0, 1.0)
    else:
        assert type(pipe.scheduler) is VPSDEScheduler and pipe.config.data_min == -1.0
    assert bool(torch.isfinite(draw(pipe)).all())
    memory, trained = to_sde_scheduler(scheduler), load_pipeline_folder(tmp_path).scheduler
    assert without_marks(pipe.scheduler.config) == without_marks(memory.config) == without_marks(trained.config)
    # Saved again, it is a folder of ours and draws the same.
    pipe.save_pretrained(tmp_path / "again")
    assert torch.equal(draw(ScoreSdePipeline.from_pretrained(tmp_path / "again")), draw(pipe))


def test_a_folder_without_a_pipeline_is_an_error(tmp_path):
    with pytest.raises((OSError, ValueError), match="model_index"):
        ScoreSdePipeline.from_pretrained(tmp_path)


# ---------------------------------------------------------------------- the Hub


def test_loading_from_the_hub_and_offline_from_the_cache(tmp_path):
    pipeline("ve").save_pretrained(tmp_path / "ours")
    (tmp_path / "flat").mkdir()
    write_layout(tmp_path / "flat", "model", True, ScoreSdeVeScheduler(sigma_max=50.0))
    checksums = {}
    for name in ("ours", "flat"):
        images = draw(ScoreSdePipeline.from_pretrained(tmp_path / name)).numpy()
        checksums[name] = hashlib.sha256(images.tobytes()).hexdigest()
    environment = {"PYTHONPATH": str(Path(scoresde_pipelines.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("hub_stand_in.py")
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["online"] == checksums and found["offline"] == [checksums, checksums]
    assert found["revision"] == ["model_index.json", "scheduler", "unet"]
    for message in found["missing"]:
        assert "got 'someone/missing': there is no such folder or shipped model (shipped are emoji-32-ve, " in message
        assert "\n" not in message and len(message) < 250
    assert "and the Hub answered with the HTTP status 404, not found" in found["missing"][0]
    assert "it is not in the cache of the Hub, and HF_HUB_OFFLINE is set" in found["missing"][1]


@pytest.mark.parametrize("name, near", [("emoij-32-ve", "emoji-32-ve"), ("fashion-mnist-vp", "fashion-mnist-32-vp")])
def test_a_slip_in_a_shipped_name_is_answered_with_the_name(name, near, monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError) as error:
        ScoreSdePipeline.from_pretrained(name)
    assert f"got {name!r}: there is no such folder or shipped model (did you mean {near!r}?)" in str(error.value)
    assert caplog.text == ""
