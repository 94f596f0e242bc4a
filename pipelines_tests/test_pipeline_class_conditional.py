"""Class-conditional generation of mixtures, whose classes and guided densities are known in closed form."""

import math

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import FrozenDict
from gaussian_posteriors import SCHEDULERS
from torch import nn

from scoresde_pipelines import DDPMpp, GaussianMixtureScoreModel, ScoreSdeClassConditionalPipeline
from scoresde_pipelines.schedulers import VESDE


WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [[[[-0.6]]], [[[0.7]]]], [0.04, 0.09]


class ExactClassifier(nn.Module):
    """p(component | x_0 + level z) of a mixture, in the form of a noise-conditional classifier."""

    def __init__(self, data, **config):
        super().__init__()
        self.data, self.dtype, self.device = data, torch.float64, torch.device("cpu")
        config = {"in_channels": 1, "sample_size": 1, "num_classes": 2, "data_min": 0.0, "data_max": 1.0, **config}
        self.config = FrozenDict(config)
        self.sde = VESDE(1e-4, 1e4)

    def forward(self, sample, noise_level):
        t = self.sde.t_from_log_snr(-2 * torch.log(noise_level.double()))
        return type("Output", (), {"logits": self.data.log_responsibilities(self.sde, sample, t)})


class ConditionalNetwork(nn.Module):
    """The mixture's components as a class-conditional network with a label for 'no class'."""

    def __init__(self, scheduler):
        super().__init__()
        parts = [GaussianMixtureScoreModel([1.0], [m], [v]) for m, v in zip(MEANS, VARIANCES)]
        self.networks = nn.ModuleList(part.network(scheduler) for part in [*parts, mixture()])
        self.config = FrozenDict(in_channels=1, out_channels=1, sample_size=1, num_class_embeds=2)
        self.class_embedding = nn.Embedding(3, 1)
        self.dtype, self.device, self.calls = torch.float64, torch.device("cpu"), 0

    def forward(self, sample, timestep, class_labels):
        self.calls += len(sample)
        outputs = torch.stack([network(sample, timestep).sample for network in self.networks])
        return type("Output", (), {"sample": outputs[class_labels, torch.arange(len(sample))]})


def mixture():
    return GaussianMixtureScoreModel(WEIGHTS, MEANS, VARIANCES)


def classified(name, **classifier_config):
    scheduler = SCHEDULERS[name]()
    pipe = ScoreSdeClassConditionalPipeline(
        mixture().network(scheduler), scheduler, ExactClassifier(mixture(), **classifier_config), 0.0, 1.0
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def conditional(name):
    scheduler = SCHEDULERS[name]()
    pipe = ScoreSdeClassConditionalPipeline(ConditionalNetwork(scheduler), scheduler, data_min=0.0, data_max=1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("predictor, own", [("restart", None), ("exponential_multistep", None), ("restart", 3)])
def test_large_scales_take_a_stable_order_unless_the_configuration_holds_one(predictor, own):
    def images(order, scale):
        pipe = conditional("vp")
        config = pipe.scheduler.config
        pipe.scheduler = type(pipe.scheduler).from_config(config, predictor=predictor, multistep_order=order)
        draw = torch.Generator().manual_seed(0)
        found = pipe([0, 1], guidance_scale=scale, num_inference_steps=16, generator=draw, output_type="latent").images
        assert pipe.scheduler.config.multistep_order == order
        return found

    assert torch.equal(images(own, 4.5), images(own or 2, 4.5))
    assert torch.equal(images(own, 4.5), images(own or 5, 4.5)) == (own is not None)
    assert torch.equal(images(own, 4.0), images(own or 5, 4.0))


@pytest.mark.parametrize("make", [classified, conditional])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_ode_samples_the_class(name, label, make):
    # In one dimension the probability-flow ODE maps quantiles to quantiles: exact for each start.
    z = torch.linspace(-1.5, 1.5, 7)
    out = make(name)([label] * 7, ode_tolerance=1e-6, latents=z.reshape(7, 1, 1, 1), output_type="latent")
    expected = MEANS[label][0][0][0] + math.sqrt(VARIANCES[label]) * z
    torch.testing.assert_close(out.images.flatten(), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("make", [classified, conditional])
def test_restarts_to_a_tolerance_sample_the_classes(make):
    generators = [torch.Generator().manual_seed(seed) for seed in range(2000)]
    out = make("vp")([0, 1] * 1000, ode_tolerance=1e-3, num_restarts=2, generator=generators, output_type="latent")
    assert out.nfe.shape == (2000,) and len(set(out.nfe.tolist())) > 1
    for label in (0, 1):
        x, std = out.images[label::2], math.sqrt(VARIANCES[label])
        assert float(x.mean()) == pytest.approx(MEANS[label][0][0][0], abs=4 * std / 1000**0.5)
        assert float(x.std()) == pytest.approx(std, rel=4 / 2000**0.5)


@pytest.mark.parametrize("make", [classified, conditional])
def test_predictor_and_corrector_sample_the_class(make):
    pipe = make("vp")
    assert pipe.scheduler.corrector is None
    pipe.scheduler = SCHEDULERS["vp"](predictor="reverse_diffusion", corrector="annealed_langevin", snr=0.1)
    out = pipe([1], num_samples=4000, num_inference_steps=100, output_type="latent")
    assert out.nfe == 200
    assert float(out.images.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(out.images.std()) == pytest.approx(0.3, rel=0.06)


def test_both_forms_of_guidance_are_the_same_score():
    # Bayes: score(x | c) - score(x) = grad log p(c | x), so scale 2 is the same guided score for both.
    results = []
    for build in (classified, conditional):
        pipe, z = build("vp"), torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1)
        out = pipe(
            [0] * 5, 2.0, num_inference_steps=30, latents=z, generator=torch.manual_seed(0), output_type="latent"
        )
        results.append(out.images)
    torch.testing.assert_close(*results, rtol=0, atol=1e-3)


def test_scale_zero_ignores_the_class_and_larger_scales_sharpen_it():
    pipe = classified("vp")
    arguments = {"num_samples": 4000, "num_inference_steps": 100, "output_type": "latent"}
    free = pipe([0], 0.0, **arguments).images
    assert float((free < 0.1).double().mean()) == pytest.approx(0.3, abs=0.03)
    means = [float(pipe([0], scale, **arguments).images.mean()) for scale in (1.0, 4.0)]
    assert means[0] == pytest.approx(-0.6, abs=0.02)
    assert means[1] < -0.605


def test_a_classifier_of_another_data_range_gives_the_same_images():
    results = []
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        scale = high - low
        means = [[[[low + scale * m[0][0][0]]]] for m in MEANS]
        data = GaussianMixtureScoreModel(WEIGHTS, means, [scale**2 * v for v in VARIANCES])
        pipe = classified("ve")
        pipe.register_modules(classifier=ExactClassifier(data, data_min=low, data_max=high))
        out = pipe([0, 1], num_inference_steps=10, generator=torch.manual_seed(0), output_type="latent")
        results.append(out.images)
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)


def test_guidance_counts_both_evaluations():
    pipe = conditional("vp")
    for scale, calls in ((0.0, 1), (1.0, 1), (3.0, 2)):
        pipe.unet.calls = 0
        out = pipe(1, scale, num_inference_steps=4, output_type="np")
        assert out.nfe == pipe.unet.calls == 4 * calls


def test_our_networks_and_diffusers_networks_take_labels(tmp_path):
    size = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "num_class_embeds": 3}
    ours = DDPMpp(block_out_channels=(8, 8), attention_resolutions=(), **size)
    theirs = UNet2DModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **size,
    )
    for unet, scale in ((ours, 2.0), (theirs, 1.0)):
        for parameter in unet.parameters():  # a fresh network's last layers are zero
            nn.init.normal_(parameter, std=0.05)
        pipe = ScoreSdeClassConditionalPipeline(unet.eval(), SCHEDULERS["vp"]())
        pipe.set_progress_bar_config(disable=True)
        arguments = {"num_inference_steps": 2, "output_type": "latent"}
        first = pipe([0, 2], scale, generator=torch.manual_seed(0), **arguments).images
        assert abs(first[0] - pipe([1, 2], scale, generator=torch.manual_seed(0), **arguments).images[0]).max() > 0
        pipe.save_pretrained(tmp_path)
        again = ScoreSdeClassConditionalPipeline.from_pretrained(tmp_path)
        again.set_progress_bar_config(disable=True)
        second = again([0, 2], scale, generator=torch.manual_seed(0), **arguments).images
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"guidance_scale must be 1 for a network without a label for 'no class'"):
        pipe([0], 2.0)


@pytest.mark.parametrize(
    "labels, scale, message",
    [
        (2, 1.0, r"class_labels must lie in 0..1, got 2"),
        ([0, -1], 1.0, r"class_labels must lie in 0..1, got \[0, -1\]"),
        ([0.5], 1.0, "class_labels must be"),
        ([], 1.0, "class_labels must be"),
        (0, -1.0, r"guidance_scale must be a finite number in \[0, 1e\+15\], got -1.0"),
        (0, float("nan"), r"guidance_scale must be a finite number in \[0, 1e\+15\], got nan"),
    ],
)
def test_bad_input_is_named_before_any_network_call(labels, scale, message):
    pipe = classified("vp")
    pipe.unet.forward = pipe.classifier.forward = None
    with pytest.raises(ValueError, match=message):
        pipe(labels, scale)


@pytest.mark.parametrize(
    "labels, scale, message",
    [
        (None, 1.0, "class_labels must be .*, got None"),
        ("boot", 1.0, "class_labels must be .*, got 'boot'"),
        (["boot"], 1.0, "class_labels must be"),
        (0, None, "guidance_scale must be a number, got NoneType"),
        (0, "strong", "guidance_scale must be a number, got str"),
    ],
)
def test_wrong_types_are_named(labels, scale, message):
    pipe = classified("vp")
    pipe.unet.forward = pipe.classifier.forward = None
    with pytest.raises(TypeError, match=message):
        pipe(labels, scale)


def test_what_is_no_classifier_is_refused_at_once():
    pipe = classified("vp")
    with pytest.raises(TypeError, match=r"classifier must be a NoiseConditionalClassifier, .*got Linear"):
        ScoreSdeClassConditionalPipeline(pipe.unet, pipe.scheduler, torch.nn.Linear(2, 2))


def test_classifiers_for_other_images_and_networks_without_classes_are_refused():
    pipe = classified("vp", sample_size=2)
    with pytest.raises(ValueError, match=r"classifier must be made for images of shape \(1, 1, 1\) .*\(1, 2, 2\)"):
        pipe(0)
    pipe = classified("vp")
    pipe.register_modules(classifier=None)
    with pytest.raises(ValueError, match=r"classifier must be given where the network has no classes"):
        pipe(0)
