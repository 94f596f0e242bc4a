"""Preprocessing of `transformers`' image processors, against the processors themselves."""

import numpy as np
import pytest
import torch

from scoresde_pipelines import NCSNpp, ScoreSdeClassConditionalPipeline, VESDEScheduler
from scoresde_pipelines.models.image_preprocessing import ImagePreprocessing


transformers = pytest.importorskip("transformers", reason="guidance by its classifiers is optional")


PROCESSORS = {
    "vit": ("ViTImageProcessor", {"size": {"height": 48, "width": 40}}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 36}}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    "convnext whole": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "no resizing": ("ViTImageProcessor", {"do_resize": False}),
    "bit": ("BitImageProcessor", {"size": {"shortest_edge": 24}, "crop_size": {"height": 30, "width": 30}}),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(32, 32), (28, 44)])
def test_pixel_values_are_those_of_the_processor(name, shape):
    kind, options = PROCESSORS[name]
    processor = getattr(transformers, kind)(**options)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0)), shape, mode="bicubic", align_corners=False
    )
    pixels = (0.2 + 0.6 * smooth).clamp(0.1, 0.9) * 255  # bicubic overshoots stay within 8 bits
    pixels = pixels.round().to(torch.uint8)
    theirs = processor(np.asarray(pixels[0].permute(1, 2, 0)), return_tensors="pt")["pixel_values"]
    ours = ImagePreprocessing(processor)(pixels.float() / 255)
    assert ours.shape == theirs.shape
    # Theirs rounds to 8 bits after each of two passes and once more: at most 2 units, over the smallest std.
    assert (ours - theirs).abs().max() <= 2 / 255 / min(processor.image_std)
    again = ImagePreprocessing(processor.to_dict())(pixels.float() / 255)
    assert torch.equal(again, ours)


def test_gradients_pass_and_gray_images_are_repeated():
    preprocessing = ImagePreprocessing(transformers.ViTImageProcessor(size={"height": 8, "width": 8}))
    x = torch.full((2, 1, 16, 16), 0.25, requires_grad=True)
    values = preprocessing(x)
    assert torch.allclose(values, torch.full((2, 3, 8, 8), -0.5))  # (0.25 - mean 0.5) / std 0.5
    (gradient,) = torch.autograd.grad(values.sum(), x)
    # Three channels of 64 pixels, each a mean of the image's with std 0.5: d sum / d x sums to 3 * 64 / 0.5 an image.
    assert torch.allclose(gradient.sum((1, 2, 3)), torch.tensor([384.0, 384.0]))


def test_other_channels_than_the_processor_s_are_refused_before_a_run():
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    size = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "patch_size": 4,
    }
    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8})
    plain = transformers.ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False)
    for channels, own, message in (
        (4, processor, "images must have 1 or 3 channels, got 4"),
        (4, plain, "classifier must take images of 4 channels, got one of 3"),
        (1, plain, "classifier must take images of 1 channels, got one of 3"),
    ):
        classifier = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=8, **size, **names))
        unet = NCSNpp(sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8,))
        pipe = ScoreSdeClassConditionalPipeline(unet, VESDEScheduler(), classifier, image_processor=own)
        with pytest.raises(ValueError, match=message):
            pipe.check_labels([0], 1.0)


@pytest.mark.parametrize("option", [{"do_pad": True}, {"size": {"longest_edge": 8}}, {"rescale_offset": True}])
def test_options_without_an_equal_are_refused(option):
    with pytest.raises(ValueError, match="processor must"):
        ImagePreprocessing({"size": {"height": 8, "width": 8}, **option})
