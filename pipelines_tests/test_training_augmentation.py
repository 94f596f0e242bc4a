"""Augmentation that the network is told of: the geometry, what is told, networks that take it, and whole runs."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scoresde_pipelines import DDPMpp, NCSNpp, ScoreSdePipeline, to_unet2d, with_augment_labels
from scoresde_pipelines.training.augmentation import AUGMENT_DIM, UNIFORMS, augment
from scoresde_pipelines.training.seeding import ImageDraws
from scoresde_pipelines.training.train_unconditional import main


OPERATIONS = ("mirror_x", "mirror_y", "scale", "turn", "stretch", "shift")
SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "init_scale": 1.0}
MEDIAN = 0.5  # of a normal distribution: 0; of a turn: 0


def uniforms(*done, count=1, **values):
    """Numbers for which the named operations are done, with given values of the eight parameters, by position."""
    u = torch.full((count, UNIFORMS), MEDIAN, dtype=torch.float64)
    u[:, :6] = 0.9
    for name in done:
        u[:, OPERATIONS.index(name)] = 0.1
    for position, value in values.items():
        u[:, 6 + int(position[1:])] = value
    return u


def normal(value):
    """The uniform number of a standard normal one."""
    return float(torch.special.ndtr(torch.tensor(value, dtype=torch.float64)))


def smooth(size=(32, 32)):
    """A picture without fine details, so that interpolation is accurate: (1, 2, H, W)."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    return torch.stack([torch.sin(2 * x + 0.5 * y), torch.cos(1.5 * y - x)])[None]


def test_nothing_is_done_to_the_bit():
    x = torch.rand(4, 3, 16, 16)
    found, labels = augment(x, torch.rand(4, UNIFORMS), 0.0)
    assert torch.equal(found, x) and torch.equal(labels, torch.zeros(4, AUGMENT_DIM))


def test_mirrors_are_exact():
    x = smooth()
    for name, axis, column in (("mirror_x", -1, 0), ("mirror_y", -2, 1)):
        found, labels = augment(x, uniforms(name, **{f"v{column}": 0.2}), 0.5)
        torch.testing.assert_close(found, x.flip(axis), atol=1e-5, rtol=0)
        assert labels[0].tolist() == [float(k == column) for k in range(AUGMENT_DIM)]
        same, labels = augment(x, uniforms(name, **{f"v{column}": 0.8}), 0.5)  # the coin says no
        assert torch.equal(same, x) and not labels.any()


@pytest.mark.parametrize("quarter", [1, -1])
def test_a_quarter_turn_is_that_of_the_pixels(quarter):
    x = smooth()
    found, labels = augment(x, uniforms("turn", v3=0.5 + quarter / 4), 0.5)
    torch.testing.assert_close(found, torch.rot90(x, -quarter, (-2, -1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(labels[0, 3:5], torch.tensor([-1.0, float(quarter)]), atol=1e-6, rtol=0)


def test_a_turn_of_a_wide_picture_keeps_squares_square():
    x = torch.zeros(1, 1, 32, 64)
    x[..., 12:20, 28:36] = 1  # a square in the middle
    found, _ = augment(x, uniforms("turn", v3=0.75), 0.5)
    torch.testing.assert_close(found[..., 16:48], x[..., 16:48], atol=1e-4, rtol=0)  # beyond are reflections


def test_a_shift_moves_by_pixels_and_reflects_the_border():
    x = smooth()
    found, labels = augment(x, uniforms("shift", v6=normal(1.0), v7=normal(-0.5)), 0.5)
    # an eighth of 32 pixels to the right, a sixteenth up
    torch.testing.assert_close(found[..., :-2, 4:], x[..., 2:, :-4], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., :-2, :4], x[..., 2:, :4].flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(labels[0, 7:], torch.tensor([1.0, -0.5]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "extra"), [("scale", {}), ("stretch", {"v4": 0.5})])
def test_scale_and_stretch_about_the_middle(name, extra):
    exponent = 1.5
    position = {"scale": "v2", "stretch": "v5"}[name]
    y, x = torch.meshgrid(*(torch.linspace(-31 / 32, 31 / 32, 32),) * 2, indexing="ij")
    picture = torch.stack([x, y])[None]  # a pixel's value is its place
    found, labels = augment(picture, uniforms(name, **{position: normal(exponent)}, **extra), 0.5)
    factor = 2 ** (0.2 * exponent)
    inner = (slice(None), slice(None), slice(8, 24), slice(8, 24))
    factors = torch.tensor([factor, factor if name == "scale" else 1 / factor])
    torch.testing.assert_close(found[inner], (picture / factors.view(1, 2, 1, 1))[inner], atol=4e-3, rtol=0)
    column = {"scale": 2, "stretch": 5}[name]
    torch.testing.assert_close(labels[0, column].item(), exponent, atol=1e-5, rtol=0)


def test_each_operation_has_its_probability():
    _, labels = augment(torch.zeros(4000, 1, 4, 4), torch.rand(4000, UNIFORMS, dtype=torch.float64), 0.3)
    shares = (labels != 0).double().mean(dim=0)
    expected = torch.tensor([0.15, 0.15, *[0.3] * 7], dtype=torch.float64)
    error = (expected * (1 - expected) / 4000).sqrt()
    assert bool(((shares - expected).abs() < 4 * error).all())
    assert (
        abs(float(labels[:, 2].square().mean()) - 0.3) < 0.06
        and abs(float(labels[:, 7].std()) - math.sqrt(0.3)) < 0.05
    )


def test_draws_do_not_depend_on_the_batches():
    whole = ImageDraws(3, 10, 6).augmentation(UNIFORMS)
    parts = torch.cat([ImageDraws(3, 10, 2).augmentation(UNIFORMS), ImageDraws(3, 12, 4).augmentation(UNIFORMS)])
    assert torch.equal(whole, parts) and len(whole.unique()) == whole.numel()
    assert abs(float(ImageDraws(3, 0, 4000).augmentation(UNIFORMS).mean()) - 0.5) < 0.01


@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp])
@pytest.mark.parametrize("options", [{}, {"num_class_embeds": 3}, {"time_conditioning": False}])
def test_a_network_is_given_augment_labels(kind, options):
    network = kind(**SMALL, **options)
    made = with_augment_labels(network, AUGMENT_DIM)
    x, t, told = torch.rand(2, 3, 32, 32), torch.tensor([0.5, 3.0]), torch.randn(2, AUGMENT_DIM)
    expected = network(x, t).sample
    for labels in (None, told, torch.zeros(2, AUGMENT_DIM)):
        torch.testing.assert_close(made(x, t, augment_labels=labels).sample, expected, rtol=1e-5, atol=1e-6)
    made(x, t, augment_labels=told).sample.square().sum().backward()
    assert made.augment_embedding.weight.grad.norm() > 0
    made.augment_embedding.weight.data.normal_()
    assert not torch.allclose(made(x, t, augment_labels=told).sample, expected)
    torch.testing.assert_close(made(x, t).sample, expected, rtol=1e-5, atol=1e-6)  # sampling is not augmented
    assert network.config.augment_dim is None and made.config.augment_dim == AUGMENT_DIM


def test_a_stock_network_loses_the_augmentation_and_nothing_else():
    network = DDPMpp(
        **SMALL,
        resnet_type="ddpm",
        skip_rescale=False,
        up_attention="every",
        norm_num_groups=8,
        augment_dim=AUGMENT_DIM,
    )
    network.augment_embedding.weight.data.normal_()
    x, t = torch.rand(2, 3, 32, 32), torch.tensor([5, 700])
    torch.testing.assert_close(to_unet2d(network)(x, t).sample, network(x, t).sample, rtol=1e-3, atol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="network must take no augment_labels, got one with augment_dim=9"):
        with_augment_labels(NCSNpp(**SMALL, augment_dim=9), 9)
    with pytest.raises(TypeError, match="network must be an NCSNpp or DDPMpp, got Linear"):
        with_augment_labels(torch.nn.Linear(1, 1), 9)
    x, t = torch.rand(2, 3, 32, 32), torch.tensor([0.5, 3.0])
    for network, labels in ((NCSNpp(**SMALL), torch.zeros(2, 9)), (NCSNpp(**SMALL, augment_dim=9), torch.zeros(2, 8))):
        with pytest.raises(ValueError, match="augment_labels must have shape"):
            network(x, t, augment_labels=labels)
    with pytest.raises(ValueError, match=r"uniforms must have shape \(2, 14\), got \(2, 3\)"):
        augment(x, torch.rand(2, 3), 0.1)
    with pytest.raises(TypeError, match=r"images must be a floating-point tensor, got torch\.uint8"):
        augment(x.byte(), torch.rand(2, UNIFORMS), 0.1)


def save_images(folder):
    folder.mkdir()
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{k}.png")


def arguments(folder, out, *more):
    size = ("--resolution", "8", "--block_out_channels", "8", "8", "--layers_per_block", "1")
    size = () if "--pretrained_model_name_or_path" in more else size
    run = ("--train_batch_size", "4", "--eval_batch_size", "0", "--report_to", "none", "--cpu", "--seed", "5")
    return ["--train_data_dir", str(folder), *size, *run, "--output_dir", str(out), *more]


def test_a_run_with_augmentation_resumes_to_the_bit_and_samples_without(tmp_path):
    save_images(tmp_path / "data")
    p = ("--augment_prob", "0.4", "--checkpointing_steps", "2")
    main(arguments(tmp_path / "data", tmp_path / "whole", *p, "--max_train_steps", "4"))
    main(arguments(tmp_path / "data", tmp_path / "parts", *p, "--max_train_steps", "2"))
    resumed = ("--max_train_steps", "4", "--resume_from_checkpoint", "latest")
    main(arguments(tmp_path / "data", tmp_path / "parts", *p, *resumed))
    plain = arguments(tmp_path / "data", tmp_path / "plain", "--max_train_steps", "4", "--checkpointing_steps", "2")
    main(plain)
    path = "unet/diffusion_pytorch_model.safetensors"
    whole, parts, without = (load_file(tmp_path / run / path) for run in ("whole", "parts", "plain"))
    assert set(whole) == {*without, "augment_embedding.weight"}
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert whole["augment_embedding.weight"].abs().sum() > 0
    assert json.loads((tmp_path / "whole" / "unet" / "config.json").read_text())["augment_dim"] == AUGMENT_DIM
    pipe = ScoreSdePipeline.from_pretrained(tmp_path / "whole")
    stripped = type(pipe.unet).from_config(pipe.unet.config, augment_dim=None).eval()
    stripped.load_state_dict({key: value for key, value in whole.items() if not key.startswith("augment")})
    options = {"num_inference_steps": 3, "output_type": "pt"}
    images = [
        one(batch_size=2, generator=torch.Generator().manual_seed(0), **options).images
        for one in (pipe, ScoreSdePipeline(stripped, pipe.scheduler))
    ]
    assert torch.equal(*images)


def test_fine_tuning_adds_it_to_a_network_that_was_trained_without(tmp_path):
    save_images(tmp_path / "data")
    main(arguments(tmp_path / "data", tmp_path / "plain", "--max_train_steps", "1"))
    more = (
        "--pretrained_model_name_or_path",
        str(tmp_path / "plain"),
        "--augment_prob",
        "0.5",
        "--max_train_steps",
        "2",
    )
    main(arguments(tmp_path / "data", tmp_path / "tuned", *more))
    weight = load_file(tmp_path / "tuned" / "unet" / "diffusion_pytorch_model.safetensors")["augment_embedding.weight"]
    assert weight.shape[1] == AUGMENT_DIM and weight.abs().sum() > 0
