"""What pipelines do with networks in training mode, several threads, misfits, NaN, and components of other pipelines."""

import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from scoresde_pipelines import (
    DDPMpp,
    GaussianScoreModel,
    NCSNpp,
    NoiseConditionalClassifier,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    ScoreSdeSuperResolutionPipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.network_use import in_use
from scoresde_pipelines.schedulers import AveragePoolOperator
from scoresde_pipelines.schedulers.probability_flow import ODEError


def tiny(network=DDPMpp, **options):
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8,), "layers_per_block": 1, "sample_size": 8, "attention_resolutions": ()}
    model = network(**{**sizes, **options})
    for parameter in model.parameters():  # the last layers start at zero
        if parameter.abs().max() < 1e-4:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def pipeline(cls=ScoreSdePipeline, network=DDPMpp, scheduler=None, **options):
    pipe = cls(tiny(network, **options), scheduler or VPSDEScheduler(continuous=True))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


def sample(pipe, seed=0, **options):
    return pipe(2, 3, generator=seeded(seed), output_type="latent", **options).images


# ---------------------------------------------------------------------- evaluation mode


def test_a_network_in_training_mode_is_evaluated_and_left_in_training_mode():
    pipe = pipeline(dropout=0.5)
    expected = sample(pipe)
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    flags = [module.training for module in pipe.unet.modules()]
    assert torch.equal(sample(pipe), expected) and torch.equal(sample(pipe), expected)
    assert [module.training for module in pipe.unet.modules()] == flags

    def fail(*_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sample(pipe, callback_on_step_end=fail)
    assert [module.training for module in pipe.unet.modules()] == flags


def test_likelihoods_of_a_network_in_training_mode_are_those_of_the_network():
    pipe, images = pipeline(ScoreSdeLikelihoodPipeline, dropout=0.5), torch.full((1, 3, 8, 8), 0.5)
    expected = pipe(images, tolerance=1e-2, generator=seeded()).bits_per_dim
    pipe.unet.train()
    assert torch.equal(pipe(images, tolerance=1e-2, generator=seeded()).bits_per_dim, expected)
    assert pipe.unet.training


# ---------------------------------------------------------------------- threads


def test_threads_that_share_a_network_get_their_own_images():
    pipe = pipeline()
    other = ScoreSdePipeline(pipe.unet, VPSDEScheduler(continuous=True, predictor="exponential_multistep"))
    other.set_progress_bar_config(disable=True)
    pipe.unet.train()
    jobs = [(one, seed) for seed in range(6) for one in (pipe, other)]
    expected = [sample(*job) for job in jobs]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda job: sample(*job), jobs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert pipe.unet.training


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent():
    network = torch.nn.Identity()

    def forked():
        child = os.fork()
        if child == 0:  # the thread that holds the lock is not here
            signal.alarm(20)
            with in_use(network):
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with in_use(network), ThreadPoolExecutor(1) as threads:
        assert threads.submit(forked).result() == 0


def test_a_callback_may_use_the_pipeline():
    pipe = pipeline()
    expected, inner = sample(pipe), sample(pipe, 7)

    def callback(pipe, i, timestep, tensors):
        assert torch.equal(sample(pipe, 7), inner)
        return {}

    assert torch.equal(sample(pipe, callback_on_step_end=callback), expected)


# ---------------------------------------------------------------------- components that do not fit


@pytest.mark.parametrize(
    ("network", "scheduler", "names"),
    [
        (NCSNpp, VPSDEScheduler(), "NCSNpp .*VPSDEScheduler"),
        (NCSNpp, DDIMScheduler(), "NCSNpp .*VPSDEScheduler"),
        (DDPMpp, VESDEScheduler(), "DDPMpp .*VESDEScheduler"),
    ],
)
def test_a_scheduler_of_another_sde_is_refused(network, scheduler, names):
    with pytest.raises(ValueError, match=f"scheduler must be one that {names}"):
        ScoreSdePipeline(tiny(network), scheduler)
    right = VESDEScheduler() if network is NCSNpp else VPSDEScheduler()
    pipe = ScoreSdePipeline(tiny(network), right)
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match=f"scheduler must be one that {names}"):
        pipe(1, 2)


def test_a_stock_scheduler_that_is_assigned_is_converted():
    pipe = pipeline(scheduler=DDIMScheduler(beta_end=0.01))
    expected = sample(pipe)
    pipe.scheduler = DDIMScheduler(beta_end=0.01)
    assert isinstance(pipe.scheduler, VPSDEScheduler) and torch.equal(sample(pipe), expected)


@pytest.mark.parametrize("wrong", [object(), "ddpm", 3, {"a": 1}, None, torch.nn.Linear(2, 2), DDIMScheduler])
def test_what_is_no_scheduler_is_refused_where_it_is_assigned(wrong):
    pipe = pipeline()
    before = pipe.scheduler
    with pytest.raises((TypeError, ValueError), match=r"scheduler (must be|config must hold)"):
        pipe.scheduler = wrong
    assert pipe.scheduler is before


@pytest.mark.parametrize("wrong", [torch.nn.DataParallel(tiny()), torch.nn.Linear(2, 2), "unet", None])
def test_what_is_no_network_is_refused(wrong):
    with pytest.raises(TypeError, match=f"unet must be a diffusers model .*got {type(wrong).__name__}"):
        ScoreSdePipeline(wrong, VPSDEScheduler())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ScoreSdePipeline(tiny(), VPSDEScheduler(), data_max=math.inf), "data_max"),
        (lambda: ScoreSdePipeline(tiny(), VPSDEScheduler(), data_min=math.nan), "data_min"),
        (lambda: ScoreSdePipeline(tiny(), VPSDEScheduler(), data_min=2.0), "data_min"),
        (lambda: ScoreSdePipeline(tiny(), VPSDEScheduler(), id2label={1: "a"}), "id2label"),
        (lambda: ScoreSdePipeline(tiny(), VPSDEScheduler(), id2label=["a"]), "id2label"),
        (lambda: VPSDEScheduler(snr=1e308), "snr"),
        (lambda: VESDEScheduler(sigma_max=math.inf), "sigma_max"),
        (lambda: VESDEScheduler(sigma_max=1e308), "sigma_max"),
        (lambda: VPSDEScheduler(trained_betas=[0.1, math.nan]), "betas"),
        (lambda: VPSDEScheduler(beta_end=1e300, continuous=True), "beta"),
        (lambda: VPSDEScheduler(sigma_data=math.nan, prediction_type="edm"), "sigma_data"),
        (lambda: tiny(norm_eps=math.nan), "norm_eps"),
    ],
)
def test_numbers_out_of_range_are_refused_where_they_enter(make, name):
    with pytest.raises((TypeError, ValueError), match=name):
        make()


# ---------------------------------------------------------------------- what is not finite, what is clipped


def test_what_is_not_finite_is_named():
    pipe = pipeline()
    with pytest.raises(ValueError, match="latents must be finite"):
        pipe(1, 2, latents=torch.full((1, 3, 8, 8), math.nan))
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] = math.nan
    for output_type in ("pil", "latent"):
        with pytest.raises(ValueError, match=r"images must be finite, .*in 2 of them: .*weights conv_in.bias"):
            pipe(2, 2, output_type=output_type)


def test_weights_that_are_not_finite_are_named_by_their_network():
    def spoiled(network):
        next(network.parameters()).data.view(-1)[0] = math.nan
        return network

    classifier = NoiseConditionalClassifier(depth=10, width=1, in_channels=3, num_classes=2, sample_size=8).eval()
    guided = pipeline(ScoreSdeClassConditionalPipeline)
    guided.register_modules(classifier=spoiled(classifier))
    with pytest.raises(ValueError, match=r"in 1 of them: the weights \S+ of classifier are not"):
        guided([0], 2.0, 2)
    pipe, measure = pipeline(), pipeline(ScoreSdeLikelihoodPipeline)
    with pytest.raises(ValueError, match=r"in 1 of them: the weights \S+ of weak_unet are not"):
        pipe(1, 2, weak_unet=spoiled(tiny()), weak_guidance_scale=2.0)
    for one in (pipe, measure):
        spoiled(one.unet)
    images = torch.full((1, 3, 8, 8), 0.5)
    for call in (
        lambda: pipe(1, ode_tolerance=0.1),
        lambda: measure(images, tolerance=0.1),
        lambda: measure.encode(images, tolerance=0.1),
        lambda: measure.decode(images, tolerance=0.1),
    ):
        with pytest.raises(ODEError, match=r"the field is not finite: .*, as the weights \S+ of unet are not finite"):
            call()


def test_a_warning_says_how_many_values_are_clipped():
    scheduler = VPSDEScheduler(continuous=True, predictor="exponential")
    data = GaussianScoreModel(mean=torch.tensor([0.5, 3.0]).repeat(8, 4)[None], variance=0.0)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler)
    pipe.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match=r"50.0% of the pixel values lie outside .* \[-1, 1\]"):
        pipe(1, 20, output_type="pt")


# ---------------------------------------------------------------------- components of other pipelines

OURS = (
    ScoreSdePipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeSuperResolutionPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeClassConditionalPipeline,
)


@pytest.mark.parametrize("target", OURS)
@pytest.mark.parametrize("source", OURS)
def test_from_pipe_shares_components_and_keeps_options(source, target):
    first = source(tiny(num_class_embeds=2), VPSDEScheduler(continuous=True), data_min=-2.0, id2label={0: "a", 1: "b"})
    second = target.from_pipe(first)
    assert type(second) is target and second.unet is first.unet and second.scheduler is first.scheduler
    assert (second.config.data_min, second.config.data_max) == (-2.0, 1.0)
    assert second.config.id2label == {0: "a", 1: "b"}
    assert target.from_pipe(first, data_min=-3.0).config.data_min == -3.0


def test_from_pipe_of_a_stock_pipeline():
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    ).eval()  # fmt: skip
    pipe = ScoreSdePipeline.from_pipe(DDPMPipeline(unet, DDPMScheduler(beta_end=0.01)))
    expected = ScoreSdePipeline(unet, DDPMScheduler(beta_end=0.01))
    for one in (pipe, expected):
        one.set_progress_bar_config(disable=True)
    assert pipe.unet is unet and torch.equal(sample(pipe), sample(expected))
    with pytest.raises(TypeError, match="pipeline must be a DiffusionPipeline, got Linear"):
        ScoreSdePipeline.from_pipe(torch.nn.Linear(1, 1))


# ---------------------------------------------------------------------- measurements


def test_a_measurement_of_images_in_another_range_is_refused():
    pipe = pipeline(ScoreSdeInverseProblemPipeline)
    y = AveragePoolOperator(2).A(torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"measurement must be one of images with values in \[0, 1\]"):
        pipe(y, AveragePoolOperator(2))


# ---------------------------------------------------------------------- other sizes


@pytest.mark.parametrize("ode", [None, 1e-2])
def test_another_size_is_drawn_as_by_a_network_of_that_size(ode):
    options = {"generator": None, "output_type": "latent", "ode_tolerance": ode}
    small, wide = (tiny(block_out_channels=(8, 8)) for _ in range(2))
    wide.register_to_config(sample_size=(12, 20))
    wide.load_state_dict(small.state_dict())
    drawn = []
    for network, size in ((small, {"height": 12, "width": 20}), (wide, {})):
        pipe = ScoreSdePipeline(network, VPSDEScheduler(continuous=True))
        pipe.set_progress_bar_config(disable=True)
        drawn.append(pipe(2, 3, **{**options, "generator": seeded()}, **size).images)
    assert tuple(drawn[0].shape) == (2, 3, 12, 20) and torch.equal(*drawn)


def test_sizes_at_which_the_network_does_not_run_are_named():
    pipe = ScoreSdePipeline(tiny(block_out_channels=(8, 8, 8)), VPSDEScheduler(continuous=True))
    with pytest.raises(ValueError, match="height must be divisible by 4 for 3 levels, got 10"):
        pipe(height=10)
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        pipe(width=0)
    with pytest.raises(ValueError, match=r"latents must have shape \(1, 3, 8, 12\)"):
        pipe(width=12, latents=torch.zeros(1, 3, 8, 8))
    scheduler = VPSDEScheduler(continuous=True)
    exact = GaussianScoreModel(torch.zeros(1, 4, 4), variance=1.0).network(scheduler)
    with pytest.raises(ValueError, match="width must be 4, the only one of AnalyticNetwork, got 8"):
        ScoreSdePipeline(exact, scheduler)(width=8)


class Changed(torch.nn.Module):
    """A network of which something is changed at every call."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change, self.config = network, change, network.config
        self.dtype, self.device = network.dtype, network.device

    def forward(self, sample, timestep, **kwargs):
        return self.change(self.network, sample, timestep)


def without_gradient(network, x, t):
    with torch.no_grad():
        return network(x, t)


def in_place(network, x, t):
    output = network(x, t)
    x.zero_()
    return output


def test_a_network_without_gradients_has_no_likelihood():
    # Its divergence would count as zero: 1.5 bits/dim too few.
    images = torch.full((1, 1, 8, 8), 0.5)
    pipe = pipeline(ScoreSdeLikelihoodPipeline)
    pipe.unet = Changed(pipe.unet, without_gradient)
    with pytest.raises(ValueError, match=r"the output of model must be differentiable in its input"):
        pipe(images, generator=seeded(), tolerance=0.1)
    draws = pipeline()
    draws.unet = Changed(draws.unet, without_gradient)
    assert torch.equal(sample(draws), sample(pipeline()))  # sampling needs none


def test_a_network_that_modifies_its_input_does_not_modify_the_state():
    pipe = pipeline()
    pipe.unet = Changed(pipe.unet, in_place)
    assert torch.equal(sample(pipe), sample(pipeline()))


def test_a_network_that_returns_a_tensor_is_named():
    pipe = pipeline()
    pipe.unet = Changed(pipe.unet, lambda network, x, t: network(x, t).sample)
    with pytest.raises(TypeError, match=r"unet must return \.sample, .* got torch.float32 \(.*\) without \.sample"):
        sample(pipe)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: VPSDEScheduler(predictor="exponential_multistep", beta_schedule="scaled_linear"),
        lambda: VPSDEScheduler(corrector="langevin", timestep_spacing="karras", beta_schedule="squaredcos_cap_v2"),
        SubVPSDEScheduler,
    ],
)
def test_torch_s_default_device_changes_nothing(scheduler):
    # Tensors on "meta" have no values: any that is made without naming its device is an error or gives other images.
    image, mask = torch.full((1, 8, 8), 0.5), torch.zeros(1, 8, 8).index_fill(1, torch.arange(4), 1.0)

    network = tiny()

    def results():
        pipes = [
            cls(network, scheduler())
            for cls in (ScoreSdePipeline, ScoreSdeLikelihoodPipeline, ScoreSdeInpaintPipeline)
        ]
        draws, likelihood, inpaint = pipes
        for pipe in pipes:
            pipe.set_progress_bar_config(disable=True)
        yield sample(draws)
        yield draws(2, ode_tolerance=0.1, generator=seeded(), output_type="latent").images
        yield likelihood(image, generator=seeded(), tolerance=0.1).bits_per_dim
        yield torch.from_numpy(
            inpaint(image, mask, num_inference_steps=4, generator=seeded(), output_type="np").images
        )

    expected = list(results())
    torch.set_default_device("meta")
    try:
        found = list(results())
    finally:
        torch.set_default_device(None)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["sample", "inpaint", "likelihood"])
def test_a_network_without_weights_is_refused(kind):
    network = NCSNpp(sample_size=8, block_out_channels=(8, 8), layers_per_block=1).to("meta")
    scheduler, image = VESDEScheduler(sigma_max=10.0), torch.full((1, 3, 8, 8), 0.5)
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    calls = {
        "sample": lambda: ScoreSdePipeline(network, scheduler)(1, 2),
        "inpaint": lambda: ScoreSdeInpaintPipeline(network, scheduler)(image, mask, num_inference_steps=2),
        "likelihood": lambda: ScoreSdeLikelihoodPipeline(network, scheduler)(image),
    }
    with pytest.raises(ValueError, match="unet must have weights with values, got a network on the device 'meta'"):
        calls[kind]()
