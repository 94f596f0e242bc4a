"""Conversion to and from `diffusers.UNet2DModel`: equal outputs both ways, and reasons for what cannot be expressed."""

import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from scoresde_pipelines.models import DDPMpp, NCSNpp
from scoresde_pipelines.models.unet2d_conversion import from_unet2d, to_unet2d


# The layout of google/ncsnpp-church-256, narrower and of fewer levels; attention needs 128 channels for its 32 groups.
SKIP: dict[str, Any] = {
    "sample_size": 16, "in_channels": 3, "out_channels": 3, "center_input_sample": True, "layers_per_block": 1,
    "time_embedding_type": "fourier", "block_out_channels": (64, 128), "norm_num_groups": None, "norm_eps": 1e-6,
    "mid_block_scale_factor": math.sqrt(2), "attention_head_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
}  # fmt: skip
# The layout of google/ddpm-cifar10-32.
PLAIN: dict[str, Any] = {
    "sample_size": 16, "in_channels": 3, "out_channels": 3, "center_input_sample": False, "layers_per_block": 1,
    "time_embedding_type": "positional", "block_out_channels": (32, 64), "norm_num_groups": 32, "norm_eps": 1e-6,
    "mid_block_scale_factor": 1, "attention_head_dim": None, "freq_shift": 1, "flip_sin_to_cos": False,
    "downsample_padding": 0, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def randomised(model: Any) -> Any:
    """The model in evaluation mode, with every parameter moved away from its initial value."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "time_proj" not in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def assert_equal_outputs(one: Any, other: Any, **extra: Any) -> None:
    """Equal to rounding, for images of two batch sizes."""
    times = torch.tensor([0.1, 30.0]) if one.config.time_embedding_type == "fourier" else torch.tensor([3, 900])
    sample = torch.rand(2, one.config.in_channels, 16, 16)
    with torch.no_grad():
        first, second = one(sample, times, **extra).sample, other(sample, times, **extra).sample
    assert first.abs().max() > 0.1
    assert (first - second).abs().max() < 2e-5 * first.abs().max()


@pytest.mark.parametrize(
    "arguments",
    [
        SKIP,
        PLAIN,
        PLAIN | {"flip_sin_to_cos": True, "freq_shift": 0},
        PLAIN | {"downsample_padding": 1, "attention_head_dim": 8, "in_channels": 1, "out_channels": 2},
        PLAIN | {"norm_num_groups": 16, "norm_eps": 1e-5, "layers_per_block": 2, "center_input_sample": True},
        PLAIN | {"time_embedding_type": "fourier"},
    ],
)
def test_from_unet2d_and_back(arguments: dict[str, Any]) -> None:
    unet = randomised(UNet2DModel(**arguments))
    model = from_unet2d(unet)
    assert type(model) is (NCSNpp if arguments["norm_num_groups"] is None else DDPMpp)
    assert_equal_outputs(unet, model)
    again = to_unet2d(model)
    assert_equal_outputs(unet, again)
    if not arguments["flip_sin_to_cos"]:
        assert all(torch.equal(value, unet.state_dict()[name]) for name, value in again.state_dict().items())


def test_the_papers_ddpm_becomes_a_unet2d() -> None:
    """It attends once per level going up: the other attentions of the UNet2DModel are silent."""
    arguments = {
        "block_out_channels": (32, 64),
        "sample_size": 16,
        "attention_resolutions": (8,),
        "layers_per_block": 1,
    }
    model = randomised(DDPMpp(**arguments, resnet_type="ddpm", norm_num_groups=32, skip_rescale=False))
    assert_equal_outputs(model, to_unet2d(model))


def test_the_papers_256_px_network_becomes_a_unet2d() -> None:
    arguments = {
        "block_out_channels": (64, 128),
        "sample_size": 16,
        "attention_resolutions": (8,),
        "layers_per_block": 1,
    }
    model = randomised(NCSNpp(**arguments, input_pyramid="input_skip", output_pyramid="output_skip"))
    unet = to_unet2d(model)
    assert list(unet.config.up_block_types) == ["AttnSkipUpBlock2D", "SkipUpBlock2D"]
    assert_equal_outputs(model, unet)


def test_classes() -> None:
    unet = randomised(UNet2DModel(**PLAIN, num_class_embeds=4))
    model = from_unet2d(unet)
    labels = torch.tensor([0, 3])
    assert_equal_outputs(unet, model, class_labels=labels)
    back = to_unet2d(model)
    assert back.config.num_class_embeds == 5
    assert_equal_outputs(model, back, class_labels=labels)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time_embedding_type": "learned", "num_train_timesteps": 10}, "time_embedding_type='learned'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor=2"),
        ({"downsample_type": "resnet"}, "downsample_type='resnet'"),
        ({"up_block_types": ("UpBlock2D", "UpBlock2D")}, "do not mirror"),
        ({"time_embedding_dim": 64}, "time_embedding_dim=64"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
    ],
)
def test_what_ours_cannot_express_is_said(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"not expressible: .*{reason}"):
        from_unet2d(UNet2DModel(**PLAIN | changes))


def test_group_counts_are_compared() -> None:
    """A narrow attention has 32 groups in UNet2DModel's skip blocks, 16 by the paper's rule."""
    unet = UNet2DModel(**SKIP | {"block_out_channels": (32, 64)})
    with pytest.raises(ValueError, match="64 channels in 16 groups with epsilon 1e-06 here, in 32"):
        from_unet2d(unet)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "input_pyramid='residual'"),
        ({"input_pyramid": "none", "fir": False}, "resnet_type='biggan'"),
        ({"input_pyramid": "input_skip", "output_pyramid": "output_skip", "pyramid_combine": "cat"}, "'cat'"),
        ({"input_pyramid": "input_skip"}, "output_pyramid='none'"),
        ({"input_pyramid": "input_skip", "output_pyramid": "output_skip", "in_channels": 1}, "in_channels=1"),
    ],
)
def test_what_unet2d_cannot_express_is_said(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"not expressible: .*{reason}"):
        to_unet2d(NCSNpp(block_out_channels=(8, 16), layers_per_block=1, **arguments))
