"""The Frechet distance against closed forms, the classifier that it uses, and the old names of the evaluation."""

import importlib
import itertools
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_pipelines import DDPMpp, ScoreSdePipeline, VPSDEScheduler
from scoresde_pipelines.training import feature_classifier
from scoresde_pipelines.training.evaluation import frechet_distance
from scoresde_pipelines.training.evaluation.frechet import moments
from scoresde_pipelines.training.feature_classifier import FeatureClassifier, accuracy, fit


def old_module(name):
    """A module under its old name, which warns when it is imported."""
    sys.modules.pop(f"scoresde_pipelines.training.{name}", None)
    with pytest.warns(FutureWarning, match=r"scoresde_pipelines\.training\.\w+ (moved to|is replaced by)"):
        return importlib.import_module(f"scoresde_pipelines.training.{name}")


def test_distance_of_commuting_gaussians_is_the_sum_over_their_axes():
    # Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2, in any rotated frame.
    s1, s2 = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.5, 0.0]).double()
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    c1, c2 = (rotation @ torch.diag(s**2) @ rotation.T for s in (s1, s2))
    m1, m2 = torch.zeros(3), torch.tensor([1.0, -2.0, 0.5])
    expected = (m1 - m2).square().sum().item() + (s1 - s2).square().sum().item()
    # The second covariance is singular: its zero eigenvalue is known to 1e-16 only, and its root to 1e-8.
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(m1, c1, m1, c1) == pytest.approx(0.0, abs=1e-12)


def test_distance_of_two_by_two_gaussians_that_do_not_commute():
    # In two dimensions tr (C1 C2)^{1/2} = sqrt(tr(C1 C2) + 2 sqrt(det C1 det C2)).
    c1 = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    c2 = torch.tensor([[1.0, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    cross = torch.sqrt((c1 @ c2).trace() + 2 * torch.sqrt(torch.det(c1) * torch.det(c2)))
    expected = (c1.trace() + c2.trace() - 2 * cross).item()
    assert frechet_distance(torch.zeros(2), c1, torch.zeros(2), c2) == pytest.approx(expected, rel=1e-12)


def test_moments_are_the_unbiased_ones():
    mean, covariance = moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 7.0]]))
    assert mean.tolist() == [2.0, 3.0]
    assert covariance.tolist() == [[4.0, 6.0], [6.0, 12.0]]
    with pytest.raises(ValueError, match=r"features must have shape \(N, D\) with N >= 2, got \(1, 3\)"):
        moments(torch.zeros(1, 3))


def test_distance_of_shifted_images_is_the_square_of_the_shift():
    images = torch.randint(0, 100, (40, 1, 2, 2), dtype=torch.uint8)
    distance = old_module("frechet").image_distance(lambda batch: batch.float().flatten(1), images, images + 10)
    assert distance == pytest.approx(4 * 10**2, rel=1e-9)


def test_features_do_not_depend_on_the_batch():
    classifier = FeatureClassifier(in_channels=1, num_classes=2, widths=(4, 4), num_features=3).eval()
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        together = classifier.features(images)
    torch.testing.assert_close(
        old_module("frechet").extract_features(classifier.features, images, batch_size=2), together
    )


def bars(count):
    """Vertical (class 0) and horizontal (class 1) bars, one pixel wide, on 8 x 8 pixels."""
    generator = torch.Generator().manual_seed(5)
    images, labels = torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.arange(count) % 2
    for index, place in enumerate(torch.randint(2, 6, (count,), generator=generator).tolist()):
        view = images[index, 0] if labels[index] else images[index, 0].T
        view[place] = 255
    return images, labels


def test_classifier_learns_bars_and_survives_half_precision_saving(tmp_path):
    torch.manual_seed(0)
    images, labels = bars(64)
    classifier = FeatureClassifier(in_channels=1, num_classes=2, widths=(8, 8), num_features=4, sample_size=8)
    fit(classifier, images, labels, steps=60, batch_size=32)
    assert accuracy(classifier, images, labels) == 1.0
    classifier.to(torch.float16).save_pretrained(tmp_path)
    reloaded = FeatureClassifier.from_pretrained(tmp_path).float().eval()
    assert accuracy(reloaded, images, labels) == 1.0
    assert (reloaded.config.in_channels, reloaded.config.sample_size) == (1, 8)


def test_compare_measures_both_sets_against_the_test_images():
    classifier = FeatureClassifier(in_channels=1, num_classes=2, widths=(8, 8), num_features=4).eval()
    images = bars(64)[0]
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    distances = old_module("evaluate").compare(classifier, generated=noise, train=images, test=images)
    assert distances["real"] == pytest.approx(0.0, abs=1e-4)
    assert distances["generated"] == pytest.approx(
        old_module("frechet").image_distance(classifier.features, noise, images), abs=1e-4
    )


def test_the_programs_train_a_classifier_and_compare_with_it(tmp_path, capsys):
    # Dark and light pictures, the same in both splits: every picture is told apart, and the splits have no distance.
    for split, (name, low) in itertools.product(("train", "test"), (("dark", 0), ("light", 170))):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = np.random.default_rng(index).integers(low, low + 80, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    data, classifier, model = (str(tmp_path / name) for name in ("data", "classifier", "model"))
    options = ["--resolution", "8", "--max_train_steps", "30", "--train_batch_size", "8", "--output_dir", classifier]
    feature_classifier.main(["--train_data_dir", data, *options])
    assert capsys.readouterr().out == "accuracy on the test split: 1.0000\n"
    scheduler = VPSDEScheduler(continuous=True)
    network = DDPMpp(8, block_out_channels=(8, 8), layers_per_block=1, attention_resolutions=())
    ScoreSdePipeline(network, scheduler).save_pretrained(model)
    options = ["--num_images", "16", "--num_inference_steps", "2", "--classifier", classifier]
    old_module("evaluate").main(["--pretrained_model_name_or_path", model, "--train_data_dir", data, *options])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["num_images"], result["test_images"], result["frechet_distance"]["real"]) == (16, 16, 0.0)
    assert result["frechet_distance"]["generated"] > 0
