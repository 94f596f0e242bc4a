"""Autoguidance on Gaussians: guided scores, their probability flow and the pipelines, against closed forms."""

import math

import pytest
import torch
from gaussian_posteriors import SCHEDULERS
from test_pipeline_class_conditional import ConditionalNetwork, classified, conditional
from torch import nn

from scoresde_pipelines import (
    AutoGuidance,
    DDPMpp,
    GaussianScoreModel,
    ScoreSdePipeline,
    VESDEScheduler,
    VPSDEScheduler,
    sampling_loop,
    solve_probability_flow,
)
from scoresde_pipelines.schedulers import VESDE, ClassifierFreeGuidance


STRONG, WEAK = (0.3, 0.04), (-0.2, 0.25)  # mean, variance


def gaussian(mean, variance):
    return GaussianScoreModel([[[mean]]], variance)


def exact_score(sde, mean, variance):
    data = gaussian(mean, variance)
    return lambda x, t: data.score(sde, x, t)


def pipeline(name="vp", data=STRONG):
    scheduler = SCHEDULERS[name]()
    pipe = ScoreSdePipeline(gaussian(*data).network(scheduler), scheduler, data_min=0.0, data_max=1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weak_network(pipe, data=WEAK):
    return gaussian(*data).network(pipe.scheduler)


def noise(count=7):
    return torch.linspace(-1.5, 1.5, count).reshape(count, 1, 1, 1)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guided_score_of_gaussians_is_that_of_a_gaussian_with_combined_precision(scale):
    # Precisions, and precisions times means, are extrapolated as the scores are.
    sde, t = SCHEDULERS["vp"]().sde, torch.tensor(0.4, dtype=torch.float64)
    strong, weak = (exact_score(sde, *one) for one in (STRONG, WEAK))
    x = torch.randn(5, 1, 1, 1, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    precision = [1 / (alpha**2 * v + sigma**2) for _, v in (WEAK, STRONG)]
    shift = [p * alpha * m for p, (m, _) in zip(precision, (WEAK, STRONG))]
    combined = [(1 - scale) * w + scale * s for w, s in (precision, shift)]
    truth = combined[1] - combined[0] * x
    torch.testing.assert_close(AutoGuidance(strong, weak, scale)(x, t), truth, rtol=1e-10, atol=1e-10)


def test_probability_flow_guided_by_a_wider_gaussian_has_the_known_variance():
    # VE: d log x / dt = (sigma^2)' / 2 (w / (v + sigma^2) + (1 - w) / (v2 + sigma^2)): the standard deviation at
    # sigma_min is that at sigma_max times ((v + s^2) / (v + S^2))^(w/2) ((v2 + s^2) / (v2 + S^2))^((1 - w)/2).
    sde, scale = VESDE(0.01, 50.0), 2.0
    v, v2 = STRONG[1], WEAK[1]
    strong, weak = (exact_score(sde, 0.0, variance) for variance in (v, v2))
    z = 50.0 * noise().double()
    found = solve_probability_flow(AutoGuidance(strong, weak, scale), sde, z, sde.T, 1e-5, tolerance=1e-7).x
    ends = [float(sde.sigma(torch.tensor(t, dtype=torch.float64))) ** 2 for t in (1e-5, sde.T)]
    shrink = [math.sqrt((one + ends[0]) / (one + ends[1])) for one in (v, v2)]
    truth = shrink[0] ** scale * shrink[1] ** (1 - scale)
    torch.testing.assert_close(found, truth * z, rtol=1e-5, atol=1e-6)


def test_interval_applies_the_scale_between_two_noise_ratios_and_counts_follow():
    sde = SCHEDULERS["ve"]().sde
    one, zero = (lambda x, t: torch.ones_like(x)), (lambda x, t: torch.zeros_like(x))
    guided = AutoGuidance(one, zero, 3.0, (0.1, 1.0), sde.noise_ratio)
    inside, outside = (sde.t_from_log_snr(torch.tensor(-2 * math.log(r), dtype=torch.float64)) for r in (0.5, 5.0))
    x = torch.zeros(2, 4, dtype=torch.float64)
    assert guided(x, torch.stack([inside, outside])).tolist() == [[3.0] * 4, [1.0] * 4]
    assert (guided.evaluations(inside), guided.evaluations(outside), guided.evaluations()) == (2, 1, 2)
    both = AutoGuidance(ClassifierFreeGuidance(one, zero, 2.0), zero, 3.0, (0.1, 1.0), sde.noise_ratio)
    assert (both.evaluations(inside), both.evaluations(outside)) == (3, 2)
    assert both(x, inside).eq(6).all() and both(x, outside).eq(2).all()


@pytest.mark.parametrize("options", [{"num_inference_steps": 12}, {"ode_tolerance": 1e-4}])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_scale_one_is_without_guidance_and_scale_zero_is_the_weak_network(name, options):
    pipe = pipeline(name)
    weak, arguments = weak_network(pipe), {"latents": noise(), "output_type": "latent", **options}

    def sample(pipe, **guidance):
        return pipe(7, generator=torch.manual_seed(0), **arguments, **guidance)

    plain, alone = sample(pipe), sample(pipeline(name, WEAK))
    for scale, expected in ((1.0, plain), (0.0, alone)):
        found = sample(pipe, weak_unet=weak, weak_guidance_scale=scale)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(torch.as_tensor(found.nfe), torch.as_tensor(expected.nfe))
    assert not torch.allclose(sample(pipe, weak_unet=weak).images, plain.images, atol=1e-2)


def test_the_pipeline_is_a_loop_of_ones_own_and_counts_both_networks():
    pipe = pipeline()
    weak, interval = weak_network(pipe), (0.5, 5.0)
    out = pipe(
        7,
        12,
        torch.manual_seed(0),
        noise(),
        "latent",
        weak_unet=weak,
        weak_guidance_scale=2.5,
        weak_guidance_interval=interval,
    )
    scheduler = SCHEDULERS["vp"]()
    scheduler.set_timesteps(12)
    guided = AutoGuidance(
        scheduler.score_fn(pipe.unet), scheduler.score_fn(weak), 2.5, interval, scheduler.sde.noise_ratio
    )
    own = sampling_loop(scheduler, guided, noise(), torch.manual_seed(0))
    torch.testing.assert_close(out.images, own, rtol=1e-5, atol=1e-6)
    inside = [0.5 <= float(scheduler.sde.noise_ratio(t)) <= 5.0 for t in scheduler.times]
    assert 0 < sum(inside) < 12 and out.nfe == 12 + sum(inside)
    full = pipe(7, 12, latents=noise(), output_type="latent", weak_unet=weak)
    ode = pipe(7, latents=noise(), output_type="latent", weak_unet=weak, ode_tolerance=1e-3)
    assert full.nfe == 24 and all(calls % 2 == 0 for calls in ode.nfe.tolist())


@pytest.mark.parametrize("scale, calls", [(1.0, 2), (3.0, 3)])
def test_with_a_class_the_weak_score_is_that_of_the_same_class(scale, calls):
    pipe = conditional("vp")
    weak = ConditionalNetwork(pipe.scheduler)
    # The weak network knows the classes by each other's means: the same class there is the other one here.
    weak.networks = nn.ModuleList([weak.networks[1], weak.networks[0], weak.networks[2]])
    z, labels = noise(), torch.tensor([0, 1, 1, 0, 0, 1, 1])
    out = pipe(
        labels, scale, 8, latents=z, output_type="latent", generator=torch.manual_seed(0), weak_unet=weak,
        weak_guidance_scale=0.5,
    )  # fmt: skip
    assert out.nfe == 8 * calls and pipe.unet.calls + weak.calls == 7 * 8 * calls
    scheduler = SCHEDULERS["vp"]()
    scheduler.set_timesteps(8)
    given, without, other = (
        scheduler.score_fn(pipe.unet, class_labels=c) for c in (labels, torch.full_like(labels, 2), 1 - labels)
    )
    guided = AutoGuidance(ClassifierFreeGuidance(given, without, scale), other, 0.5)
    own = sampling_loop(scheduler, guided, z, torch.manual_seed(0))
    torch.testing.assert_close(out.images, own, rtol=1e-5, atol=1e-5)


def test_a_classifier_adds_its_gradient_to_the_guided_score():
    pipe = classified("vp")
    weak = weak_network(pipe)
    out = pipe([0] * 7, 2.0, 8, latents=noise(), output_type="latent", generator=torch.manual_seed(0), weak_unet=weak)
    assert out.nfe == 16
    guided = pipe.guided_score_fn(torch.zeros(7, dtype=torch.long), 2.0)
    x, t = noise().double(), torch.tensor(0.3, dtype=torch.float64)
    strong, below = pipe.score_fn()(x, t), pipe.score_fn(weak_unet=weak)(x, t)
    both = pipe.guided_score_fn(torch.zeros(7, dtype=torch.long), 2.0, weak=pipe.check_weak(weak, 3.0, None))
    torch.testing.assert_close(both(x, t), guided(x, t) + 2 * (strong - below), rtol=1e-6, atol=1e-6)


def tiny(**options):
    config = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8)}
    return DDPMpp(layers_per_block=1, attention_resolutions=(), **config | options)


def test_both_networks_run_in_evaluation_mode_and_in_their_own_dtype():
    torch.manual_seed(0)
    unet, weak = tiny(dropout=0.5), tiny(dropout=0.5, block_out_channels=(8,)).bfloat16()
    for parameter in [*unet.parameters(), *weak.parameters()]:
        nn.init.normal_(parameter, std=0.05)
    pipe = ScoreSdePipeline(unet.eval(), VPSDEScheduler(continuous=True))
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 3, "output_type": "latent", "weak_unet": weak}
    first = pipe(generator=torch.manual_seed(0), **arguments).images
    weak.train()
    assert torch.equal(first, pipe(generator=torch.manual_seed(0), **arguments).images)
    assert weak.training and next(weak.parameters()).dtype == torch.bfloat16
    # Larger images than those of training; the weak network's levels decide as well.
    deep = tiny(block_out_channels=(8, 8, 8))
    assert pipe(num_inference_steps=2, height=12, output_type="latent", weak_unet=deep).images.shape[2] == 12
    with pytest.raises(ValueError, match="height must be divisible by 4 for 3 levels, got 10"):
        pipe(num_inference_steps=2, height=10, weak_unet=deep)
    nn.init.constant_(next(weak.parameters()), math.nan)
    with pytest.raises(ValueError, match=r"the weights .* of weak_unet are not"):
        pipe(**arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weak_guidance_scale": 2.0}, "weak_guidance_scale must be None without a weak_unet, got 2.0"),
        ({"weak_guidance_interval": (0, 1)}, "weak_guidance_interval must be None without a weak_unet"),
        ({"weak_unet": nn.Linear(2, 2)}, "weak_unet must be a diffusers model"),
        ({"weak_unet": tiny(in_channels=3, out_channels=3)}, r"weak_unet must be made for .*\(1, 8, 8\).*\(3, 8, 8\)"),
        ({"weak_unet": tiny(sample_size=16)}, r"weak_unet must be made for .*\(1, 8, 8\).*\(1, 16, 16\)"),
        ({"weak_unet": tiny(time_embedding_type="fourier")}, r"scheduler must be one that weak_unet \(DDPMpp\)"),
        ({"weak_unet": tiny().to("meta")}, "weak_unet must be on the device of the pipeline, cpu, got one on meta"),
        ({"weak_unet": tiny(), "weak_guidance_scale": -1}, "weak_guidance_scale must be .*, got -1"),
        ({"weak_unet": tiny(), "weak_guidance_scale": "2"}, "weak_guidance_scale must be a number, got str"),
        ({"weak_unet": tiny(), "weak_guidance_interval": (2, 1)}, "weak_guidance_interval must be two increasing"),
        ({"weak_unet": tiny(), "weak_guidance_interval": 3}, "weak_guidance_interval must be two noise ratios"),
    ],
)
def test_bad_input_is_named_before_any_network_call(arguments, message):
    pipe = ScoreSdePipeline(tiny(), VPSDEScheduler(continuous=True))
    pipe.unet.forward = None
    with pytest.raises((TypeError, ValueError), match=message):
        pipe(num_inference_steps=2, **arguments)


def test_a_weak_network_without_the_classes_is_refused():
    pipe = conditional("vp")
    with pytest.raises(ValueError, match=r"weak_unet must know 2 classes \(num_class_embeds\) as unet does, got None"):
        pipe([0], weak_unet=weak_network(pipe))


def test_bad_arguments_of_the_condition_are_named():
    score = VESDEScheduler().score_fn(lambda x, t: x)
    for arguments, name in (((2.0, score, 2.0), "score_fn"), ((score, None, 2.0), "weak_score_fn")):
        with pytest.raises(TypeError, match=f"{name} must be a function"):
            AutoGuidance(*arguments)
    with pytest.raises(ValueError, match="scale must be"):
        AutoGuidance(score, score, math.nan)
    with pytest.raises(ValueError, match="noise_ratio must be given"):
        AutoGuidance(score, score, 2.0, (0.1, 1.0))
