"""Labels of class-conditional networks: what they mean, what is refused, and making a network conditional."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from scoresde_pipelines import DDPMpp, NCSNpp, from_unet2d, to_unet2d, with_classes


SMALL: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "init_scale": 1.0}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(3, 3, 32, 32), torch.tensor([0.1, 1.0, 5.0])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp])
def test_a_network_made_conditional_starts_with_the_same_outputs(kind: Any, told: bool, training: bool) -> None:
    network = kind(**SMALL, time_conditioning=told).double().train(training)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    state = torch.get_rng_state()
    made = with_classes(network, 5)
    assert torch.equal(torch.get_rng_state(), state)
    x, t = inputs()
    expected = network(x.double(), t).sample
    for labels in (None, torch.tensor([0, 4, 5]), torch.tensor([2])):
        torch.testing.assert_close(made(x.double(), t, labels).sample, expected, rtol=1e-12, atol=1e-12)
    assert type(made) is kind and made.training is training and made.dtype == torch.float64
    assert made.config.num_class_embeds == 5 and network.config.num_class_embeds is None
    frozen = [name for name, parameter in made.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in network.named_parameters() if not parameter.requires_grad]


def test_it_learns_classes_apart() -> None:
    made, (x, t) = with_classes(NCSNpp(**SMALL), 2), inputs()
    made(x, t, torch.tensor([0, 0, 1])).sample.square().sum().backward()
    gradient = made.class_embedding.weight.grad
    assert gradient[0].norm() > 0 and gradient[1].norm() > 0 and gradient[2].norm() == 0


def test_what_cannot_be_made_conditional() -> None:
    with pytest.raises(TypeError, match="network must be an NCSNpp or DDPMpp, got Linear"):
        with_classes(torch.nn.Linear(1, 1), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"network must have no classes .* got one of 3"):
        with_classes(NCSNpp(**SMALL, num_class_embeds=3), 3)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got 0"):
        with_classes(NCSNpp(**SMALL), 0)


def test_the_last_label_is_no_class() -> None:
    network, (x, t) = NCSNpp(**SMALL, num_class_embeds=4).eval(), inputs()
    assert network.class_embedding.weight.shape[0] == 5
    none = network(x, t).sample
    assert torch.equal(network(x, t, torch.tensor([4])).sample, none)
    labels = torch.tensor([0, 4, 2])
    mixed = network(x, t, labels).sample
    assert torch.equal(network(x, t, labels.int()).sample, mixed)
    torch.testing.assert_close(mixed[1], none[1])
    assert (mixed[0] - none[0]).abs().max() > 1e-3 * none[0].abs().max()


def test_a_unet_of_diffusers_takes_the_same_labels() -> None:
    """`UNet2DModel` code calls `unet(sample, timestep, class_labels=labels)`: the same labels give the same outputs."""
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, num_class_embeds=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    network = from_unet2d(unet)
    x, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([10, 500]), torch.tensor([1, 3])
    expected = unet(x, t, class_labels=labels).sample
    torch.testing.assert_close(network(x, t, class_labels=labels).sample, expected, rtol=1e-4, atol=1e-5)
    # The other way round, the label "no class" is the last class.
    back = to_unet2d(network)
    none = network(x, t).sample
    torch.testing.assert_close(back(x, t, class_labels=torch.tensor([4, 4])).sample, none, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 5, 1]), r"class_labels must be in 0 .. 4 \(4 stands for no class\), got 0 .. 5"),
        (torch.tensor([-1, 0, 1]), r"class_labels must be in 0 .. 4 .* got -1 .. 1"),
        (torch.tensor([0.0, 1.0, 2.0]), "class_labels must be int64 or int32, got torch.float32"),
        (torch.tensor([True, False, True]), "class_labels must be int64 or int32, got torch.bool"),
        (torch.tensor([0, 1]), r"class_labels must have shape \(3,\) or \(1,\), got \(2,\)"),
        (torch.tensor(1), r"class_labels must have shape \(3,\) or \(1,\), got \(\)"),
        (torch.tensor([[0], [1], [2]]), r"class_labels must have shape \(3,\) or \(1,\), got \(3, 1\)"),
        ([0, 1, 2], "class_labels must be a tensor of integers, got list"),
    ],
)
def test_bad_labels_are_named(labels: Any, message: str) -> None:
    network, (x, t) = NCSNpp(**SMALL, num_class_embeds=4), inputs()
    with pytest.raises(ValueError, match=message):
        network(x, t, labels)
