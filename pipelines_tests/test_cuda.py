"""Pipelines on a CUDA GPU against the CPU: images, generators, precisions, compilation. Float32 is without TF32.

Skipped without a GPU. `SCORESDE_TEST_DEVICE=cpu` runs them on the CPU; see the fixture `device`.
"""

import copy

import pytest
import torch
from cuda_calls import CALLS, COUNT, SHAPE, images, make, network, pictures, tolerance

from scoresde_pipelines import (
    GaussianScoreModel,
    NoiseConditionalClassifier,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    VESDEScheduler,
    VPSDEScheduler,
    log_likelihood,
    shipped,
    solve_probability_flow,
)
from scoresde_pipelines.models import packed_filters


CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*are clipped")  # networks of random weights


def seeded(seed, device=CPU):
    return torch.Generator(device).manual_seed(seed)


def deviation(found, expected):
    return float((found.float().cpu() - expected.float().cpu()).abs().max())


def plausible(found):
    assert bool(found.isfinite().all()) and float(found.min()) >= 0 and float(found.max()) <= 1
    assert float(found.std()) > 0.02  # not one colour


# ---------------------------------------------------------------------- the same as on the CPU


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_that_of_the_cpu(device, name):
    # Noise of a CPU generator is drawn on the CPU for every device.
    expected, found = CALLS[name](CPU, seeded(3)), CALLS[name](device, seeded(3))
    assert deviation(found, expected) < tolerance(name)
    if name != "likelihood":
        plausible(found)


@pytest.mark.parametrize("name", shipped())
def test_shipped_models_from_the_same_latents(device, name):
    pipe = ScoreSdePipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(COUNT, *pipe.sample_shape, generator=seeded(0))
    options = [{"num_inference_steps": 12}, {"ode_tolerance": 1e-2}]
    expected = [images(pipe(COUNT, latents=latents, output_type="pt", **one)) for one in options]
    pipe.to(device)
    for one, image in zip(options, expected):
        found = images(pipe(COUNT, latents=latents.to(device), output_type="pt", **one))
        assert deviation(found, image) < 5e-3
        plausible(found)


def test_codes_of_images_come_back(device):
    pipes = [make(ScoreSdeLikelihoodPipeline, one, "vp") for one in (CPU, device)]
    options = {"tolerance": 1e-3, "sampling_eps": 1e-2}
    codes = [pipe.encode(pictures(), **options) for pipe in pipes]
    assert codes[1].device.type == device.type and deviation(*codes) < 1e-3
    back = pipes[1].decode(codes[1], output_type="pt", **options).images
    assert deviation(back, pictures()) < 2e-2


def test_the_likelihood_of_a_gaussian_is_its_closed_form_in_double_precision(device):
    variance, sde = 0.09, VPSDEScheduler(continuous=True).sde
    data = GaussianScoreModel(torch.zeros(1, 2, 2), variance)
    x = torch.linspace(-0.5, 1.0, 3 * 4, dtype=torch.float64).reshape(3, 1, 2, 2)
    t = torch.tensor(1e-3, dtype=torch.float64)
    spread = (sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2).sqrt()
    expected = torch.distributions.Normal(0.0, spread).log_prob(x).flatten(1).sum(1)
    found = log_likelihood(
        lambda x, t: data.score(sde, x, t), sde, x.to(device), sampling_eps=1e-3, tolerance=1e-8, divergence="exact"
    )
    assert found.log_prob.device.type == device.type
    # At T the data have the variance alpha^2 0.09 + sigma^2, and the prior 1.
    torch.testing.assert_close(found.log_prob.cpu(), expected, rtol=0, atol=1e-3)
    on_cpu = log_likelihood(
        lambda x, t: data.score(sde, x, t), sde, x, sampling_eps=1e-3, tolerance=1e-8, divergence="exact"
    )
    torch.testing.assert_close(found.log_prob.cpu(), on_cpu.log_prob, rtol=0, atol=1e-7)


def test_the_ode_of_a_gaussian_is_its_closed_form(device):
    scheduler = VESDEScheduler(sigma_max=10.0)
    sde, data = scheduler.sde, GaussianScoreModel(torch.full(SHAPE, 0.4), 0.04)
    start = 10.0 * torch.randn(2, *SHAPE, dtype=torch.float64, generator=seeded(1))
    found = solve_probability_flow(
        lambda x, t: data.score(sde, x, t), sde, start.to(device), 1.0, 1e-2, tolerance=1e-9
    )
    # Along the flow, distances to the mean follow the standard deviation.
    first, last = ((0.04 + sde.sigma(torch.tensor(t, dtype=torch.float64)) ** 2).sqrt() for t in (1.0, 1e-2))
    torch.testing.assert_close(found.x.cpu(), 0.4 + (start - 0.4) * last / first, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- generators


@pytest.mark.parametrize("name", CALLS)
def test_generators_of_the_device(device, name):
    one = CALLS[name](device, seeded(0, device))
    assert one.device == CPU and bool(one.isfinite().all())
    # An image is its seed's, whatever else is in the batch, and another seed makes another image.
    first, second = (CALLS[name](device, [seeded(seed, device) for seed in seeds]) for seeds in ((0, 1), (0, 2)))
    assert deviation(first[0], second[0]) < tolerance(name)
    if name != "likelihood":  # that of both is that of other pictures
        plausible(one)
        assert deviation(first[1], second[1]) > 1e-2


def test_twisted_sampling_runs_with_generators_of_both(device):
    pipe = make(ScoreSdeInpaintPipeline, device, "vp")
    mask = torch.ones(8, 8)
    mask[:, 4:] = 0
    for place in (CPU, device):
        options = {"method": "twisted_smc", "num_samples": 4, "num_inference_steps": 8, "output_type": "pt"}
        found = images(pipe(pictures(1), mask, generator=seeded(0, place), **options))
        assert deviation(found[..., 4:], pictures(1).expand(4, *SHAPE)[..., 4:]) < 1e-3


# ---------------------------------------------------------------------- classifiers


def test_guidance_by_a_noise_conditional_classifier(device):
    results = []
    for one in (CPU, device):
        pipe = make(ScoreSdePipeline, one, "vp")
        torch.manual_seed(2)
        classifier = NoiseConditionalClassifier(num_classes=3, depth=10, width=1, sample_size=8).eval().to(one)
        guided = ScoreSdeClassConditionalPipeline(pipe.unet, pipe.scheduler, classifier)
        guided.set_progress_bar_config(disable=True)
        results.append(images(guided([0, 2], 3.0, 8, generator=seeded(0), output_type="pt")))
    assert deviation(*results) < 3e-3


def test_guidance_by_a_classifier_of_transformers(device):
    transformers = pytest.importorskip("transformers")
    results = []
    for one in (CPU, device):
        torch.manual_seed(0)
        names = {"id2label": {0: "ant", 1: "bee"}, "label2id": {"ant": 0, "bee": 1}}
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], **names)
        classifier = transformers.ResNetForImageClassification(config).eval()
        size = {"height": 8, "width": 8}
        processor = transformers.CLIPImageProcessor(size=size, crop_size=size)
        plain = make(ScoreSdePipeline, CPU, "vp")
        pipe = ScoreSdeClassConditionalPipeline(plain.unet, plain.scheduler, classifier, image_processor=processor)
        pipe.to(one).set_progress_bar_config(disable=True)
        results.append(images(pipe(["ant", "bee"], 5.0, 8, generator=seeded(0), output_type="pt")))
    assert deviation(*results) < 3e-3


# ---------------------------------------------------------------------- precision, layout, compilation, offloading


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
@pytest.mark.parametrize("name", shipped())
def test_half_precision_of_a_shipped_model(device, name, dtype, bound):
    latents, results = None, []
    for precision in (torch.float32, dtype):
        pipe = ScoreSdePipeline.from_pretrained(name, torch_dtype=precision).to(device)
        pipe.set_progress_bar_config(disable=True)
        assert pipe.unet.dtype == precision
        latents = torch.randn(COUNT, *pipe.sample_shape, generator=seeded(0)) if latents is None else latents
        results.append(images(pipe(COUNT, 12, latents=latents, output_type="pt")))
    plausible(results[1])
    assert 0 < float((results[1] - results[0]).square().mean().sqrt()) < bound


def test_channels_last_changes_only_the_rounding(device):
    pipe, changed = make(ScoreSdePipeline, device), make(ScoreSdePipeline, device)
    changed.unet.to(memory_format=torch.channels_last)
    found = [images(one(COUNT, 8, generator=seeded(0), output_type="pt")) for one in (pipe, changed)]
    assert deviation(*found) < 1e-3


@pytest.fixture
def compiled():
    """`compiled(network, mode)`; what was compiled is dropped at the end."""
    yield lambda unet, mode: unet.compile(mode=mode)
    torch._dynamo.reset()


# "reduce-overhead" captures the network as a CUDA graph, whose output is overwritten by the next call.
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_network_samples_the_same_images(device, compiled, mode):
    pipe, options = make(ScoreSdePipeline, device, "vp"), {"num_inference_steps": 8, "output_type": "pt"}
    expected = images(pipe(COUNT, generator=seeded(0), **options))
    compiled(pipe.unet, mode)
    for _ in range(2):  # the second time from what was captured
        assert deviation(images(pipe(COUNT, generator=seeded(0), **options)), expected) < 1e-3


def test_a_compiled_network_has_the_same_likelihood(device, compiled):
    pipe = make(ScoreSdeLikelihoodPipeline, device, "vp")
    options = {"tolerance": 1e-2, "sampling_eps": 1e-2}
    expected = pipe(pictures(), generator=seeded(1), **options).bits_per_dim
    compiled(pipe.unet, "default")
    assert deviation(pipe(pictures(), generator=seeded(1), **options).bits_per_dim, expected) < 1e-3


def test_offloading_to_the_cpu(device):
    if device.type == "cpu":
        pytest.skip("offloading needs an accelerator")
    expected = CALLS["default"](device, seeded(0))
    pipe = make(ScoreSdePipeline, CPU)
    pipe.enable_model_cpu_offload(device=device)
    for _ in range(2):
        found = images(pipe(COUNT, 20, generator=seeded(0), output_type="pt", quality="default"))
        assert deviation(found, expected) < 1e-4
        assert pipe.unet.device.type == "cpu"  # back after the call


def test_packed_filters_change_nothing_on_a_gpu(device):
    unet, x = network().to(device), pictures().to(device)
    with torch.no_grad():
        expected = copy.deepcopy(unet)(x, 0.5).sample
        with packed_filters(unet):
            assert deviation(unet(x, 0.5).sample, expected) < 1e-5
