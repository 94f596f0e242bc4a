"""Labels, names and classifiers through the disk; networks whose last embedding means "no class"."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import UNet2DModel

from scoresde_pipelines import (
    DDPMpp,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    VPSDEScheduler,
)


NAMES = {0: "ant", 1: "bee", 2: "cat"}


def randomised(network):
    for parameter in network.parameters():  # a fresh network's last layers are zero
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def unet(**options):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False}
    size = {"sample_size": 8, "block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    return randomised(UNet2DModel(**blocks, **size, **options))


def ddpmpp(**options):
    torch.manual_seed(0)
    size = {"sample_size": 8, "block_out_channels": (8,), "layers_per_block": 1, "attention_resolutions": ()}
    return randomised(DDPMpp(**size, **options))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe, *arguments, **options):
    options = {"num_inference_steps": 2, "generator": torch.manual_seed(0), "output_type": "latent", **options}
    return pipe(*arguments, **options).images


# ---------------------------------------------------------------------- the label for no class


def test_a_network_whose_last_embedding_has_no_name_is_sampled_with_it():
    network, labels = unet(num_class_embeds=4), []
    network.register_forward_pre_hook(
        lambda module, args, kwargs: labels.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    pipe = quiet(ScoreSdePipeline(network, VPSDEScheduler(), id2label=NAMES))
    free = sample(pipe, 2)
    assert labels == [[3, 3]] * 2
    guided = quiet(ScoreSdeClassConditionalPipeline(network, VPSDEScheduler(), id2label=NAMES))
    assert torch.equal(sample(guided, [0, 1], 0.0), free)
    assert float((sample(guided, [0, 1]) - free).abs().max()) > 1e-3


def test_likelihood_and_inpainting_take_no_class_as_well():
    network, images = unet(num_class_embeds=4), torch.full((1, 3, 8, 8), 0.5)
    seen = []
    network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    likelihood = ScoreSdeLikelihoodPipeline(network, VPSDEScheduler(), id2label=NAMES)
    likelihood(images, tolerance=0.1, dequantization="none")
    assert seen and set(seen) == {3}
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    seen.clear()
    quiet(ScoreSdeInpaintPipeline(network, VPSDEScheduler(), id2label=NAMES))(images, mask, num_inference_steps=2)
    assert seen and set(seen) == {3}


@pytest.mark.parametrize("names", [None, NAMES, {0: "ant", 1: "bee"}])
def test_our_networks_choose_no_class_themselves(names):
    network = ddpmpp(num_class_embeds=3)
    free = sample(quiet(ScoreSdePipeline(network, VPSDEScheduler(continuous=True), id2label=names)), 2)
    direct = quiet(ScoreSdePipeline(network, VPSDEScheduler(continuous=True)))
    direct.network = lambda x, t, **_: network(x, t, class_labels=torch.full((len(x),), 3)).sample
    assert torch.equal(sample(direct, 2), free)


# ---------------------------------------------------------------------- labels


LABELS = [
    ([0, 3], ValueError, r"lie in 0\.\.2, got"),
    ([-1, 0], ValueError, r"lie in 0\.\.2, got"),
    (torch.tensor([2, 1000]), ValueError, r"lie in 0\.\.2, got"),
    ([0.0, 1.0], (TypeError, ValueError), "integers"),
    (torch.tensor([True, False]), (TypeError, ValueError), "integers"),
    ({}, TypeError, "integers"),
    ([[0, 1]], ValueError, "one label"),
]


@pytest.mark.parametrize(("labels", "error", "wanted"), LABELS)
@pytest.mark.parametrize("entry", ["call", "encode", "decode", "class-conditional"])
def test_labels_that_the_network_does_not_know_are_refused(entry, labels, error, wanted):
    network, images = ddpmpp(num_class_embeds=3), torch.full((2, 3, 8, 8), 0.5)
    pipe = ScoreSdeLikelihoodPipeline(network, VPSDEScheduler(continuous=True))
    guided = ScoreSdeClassConditionalPipeline(network, VPSDEScheduler(continuous=True))
    network.forward = None  # refused before any network call
    calls = {
        "call": lambda: pipe(images, class_labels=labels),
        "encode": lambda: pipe.encode(images, class_labels=labels),
        "decode": lambda: pipe.decode(images, class_labels=labels),
        "class-conditional": lambda: guided(labels),
    }
    with pytest.raises(error, match=f"class_labels must .*{wanted}"):
        calls[entry]()


# ---------------------------------------------------------------------- through the disk


def test_names_are_saved_and_come_back_by_number(tmp_path):
    pipe = quiet(ScoreSdeClassConditionalPipeline(ddpmpp(num_class_embeds=3), VPSDEScheduler(), id2label=NAMES))
    pipe.save_pretrained(tmp_path)
    again = quiet(ScoreSdeClassConditionalPipeline.from_pretrained(tmp_path))
    assert again.config.id2label == NAMES and again.labels == {"ant": 0, "bee": 1, "cat": 2}
    assert torch.equal(sample(again, ["cat", "ant"]), sample(pipe, [2, 0]))


def classifier(transformers, kind):
    torch.manual_seed(0)
    names = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
    if kind == "vit":
        size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.ViTConfig(**size, image_size=8, patch_size=4, **names)
        return transformers.ViTForImageClassification(config).eval()
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], **names)
    return transformers.ResNetForImageClassification(config).eval()


@pytest.fixture(params=["vit", "resnet"])
def guided(request):
    transformers = pytest.importorskip("transformers")
    model = classifier(transformers, request.param)
    processor = transformers.CLIPImageProcessor(size={"height": 8, "width": 8}, crop_size={"height": 8, "width": 8})
    scheduler = VPSDEScheduler(continuous=True)
    return quiet(ScoreSdeClassConditionalPipeline(ddpmpp(), scheduler, model, image_processor=processor))


def test_a_classifier_of_transformers_comes_back_from_disk(guided, tmp_path):
    images = sample(guided, ["ant", "cat"], 20.0)
    assert torch.equal(sample(guided, [0, 2], 20.0), images)
    assert float((sample(guided, [1, 0], 20.0) - images).abs().max()) > 1e-4
    guided.save_pretrained(tmp_path)
    again = quiet(ScoreSdeClassConditionalPipeline.from_pretrained(tmp_path))
    assert again.labels == guided.labels
    torch.testing.assert_close(sample(again, ["ant", "cat"], 20.0), images, rtol=0, atol=0)


def test_without_scale_or_out_of_the_interval_the_classifier_changes_nothing(guided):
    free = sample(quiet(ScoreSdePipeline(guided.unet, guided.scheduler)), 2)
    assert torch.equal(sample(guided, ["ant", "cat"], 0.0), free)
    assert torch.equal(sample(guided, ["ant", "cat"], 20.0, guidance_interval=(1e5, 1e6)), free)


def test_the_gradient_of_a_classifier_of_transformers_is_that_of_finite_differences(guided):
    for module in (guided.unet, guided.classifier):
        module.double()
    guided.network = lambda x, t, **options: guided.unet(x, t.double(), **options).sample
    labels, t, scale = torch.tensor([1]), torch.tensor(0.3, dtype=torch.float64), 5.0
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    gradient = guided.guided_score_fn(labels, scale)(x, t) - guided.score_fn()(x, t)
    low, high = guided.config.data_min, guided.config.data_max
    processor = guided.image_processor
    mean, std = (
        torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (processor.image_mean, processor.image_std)
    )

    def log_prob(x):
        clean = guided.scheduler.sde.denoise(x, guided.score_fn()(x, t), t)
        pixels = ((clean - low) / (high - low) - mean) / std
        return guided.classifier(pixel_values=pixels).logits.log_softmax(1)[0, 1]

    direction, step = torch.randn_like(x), 1e-5
    with torch.no_grad():
        slope = (log_prob(x + step * direction) - log_prob(x - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(scale * float(slope), rel=1e-3)


# ---------------------------------------------------------------------- threads


def test_pipelines_with_one_classifier_and_two_networks_do_not_disturb_each_other():
    pytest.importorskip("transformers")
    import transformers

    model = classifier(transformers, "vit")
    model.vit.embeddings.dropout.p = 0.9
    processor = transformers.CLIPImageProcessor(size={"height": 8, "width": 8}, do_center_crop=False)
    make = ScoreSdeClassConditionalPipeline
    pipes = [quiet(make(ddpmpp(), VPSDEScheduler(continuous=True), model, image_processor=processor)) for _ in "ab"]
    model.train()
    jobs = [(pipe, seed) for seed in range(4) for pipe in pipes]

    def run(job):
        return sample(job[0], [1], 20.0, generator=torch.Generator().manual_seed(job[1]))

    expected = [run(job) for job in jobs]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(run, jobs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected)) and model.training
