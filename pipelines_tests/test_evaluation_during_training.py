"""Measurements while training: the held-out loss against its closed form, KID of few images, the best weights."""

import json
import math

import pytest
import torch

from scoresde_pipelines import VESDE, VPSDE
from scoresde_pipelines.training.evaluation import kernel_distance, load_features
from scoresde_pipelines.training.evaluation.during_training import BestWeights, FewImageKID, HeldOutLoss


def black(count=400):
    return torch.zeros(count, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize("sde, smallest", [(VPSDE(), 1e-3), (VESDE(sigma_max=20.0), 1e-5)])
def test_loss_of_a_known_score_in_every_band(sde, smallest):
    # All images are 0. With the score -c x / sigma^2 the loss of x = sigma z is (1 - c)^2 mean z^2 in every band.
    held_out = HeldOutLoss(black(), (0.0, 1.0), sde, smallest, bands=3, batch_size=64)
    found = held_out(lambda x, t: -0.7 * x / (sde.sigma(t) ** 2).reshape(-1, 1, 1, 1))
    assert list(found) == ["loss", "loss_band_0", "loss_band_1", "loss_band_2"]
    for band in range(3):
        assert found[f"loss_band_{band}"] == pytest.approx(0.09, rel=4 * math.sqrt(2 / 1600))
    assert found["loss"] == pytest.approx(sum(found[f"loss_band_{band}"] for band in range(3)) / 3, rel=1e-12)
    assert held_out(lambda x, t: -x / (sde.sigma(t) ** 2).reshape(-1, 1, 1, 1))["loss"] < 1e-9


def test_bands_divide_the_signal_to_noise_ratio_evenly():
    sde = VPSDE()
    held_out = HeldOutLoss(black(10), (-1.0, 1.0), sde, 1e-3, bands=4)
    ends = sde.log_snr(torch.tensor([1e-3, 1.0], dtype=torch.float64))
    for band in range(4):
        place = (sde.log_snr(held_out.times(band)) - ends[0]) / (ends[1] - ends[0])
        expected = torch.tensor([(band + (k + 0.5) / 10) / 4 for k in range(10)], dtype=torch.float64)
        torch.testing.assert_close(place.double().sort().values, expected, rtol=1e-6, atol=1e-6)


def test_noise_and_times_are_the_same_at_every_call_and_batch_size():
    sde, images = VPSDE(), torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8)
    score = lambda x, t: -x * (1 + t.reshape(-1, 1, 1, 1))  # noqa: E731
    first = HeldOutLoss(images, (-1.0, 1.0), sde, 1e-3, batch_size=7)
    found = first(score)
    torch.manual_seed(5)
    assert first(score) == found
    assert HeldOutLoss(images, (-1.0, 1.0), sde, 1e-3, batch_size=3)(score) == pytest.approx(found, rel=1e-6)
    assert HeldOutLoss(images, (-1.0, 1.0), sde, 1e-3, seed=1)(score) != found


def test_kid_of_few_images():
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    extractor = load_features(lambda batch: batch.float().mean(dim=(2, 3)) / 255)
    features = images.float().mean(dim=(2, 3)) / 255
    kid = FewImageKID(extractor, features[:12], num_images=8)
    assert kid(lambda count: images[-count:], batch_size=3) == kernel_distance(features[12:], features[:12])
    with pytest.raises(ValueError, match="num_images must be an integer of at least 3, got 2"):
        FewImageKID(extractor, features, num_images=2)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("kid", "must have a metric, a value and a step, got 'kid'"),
        ({"value": 1.0, "step": 1}, "must have a metric, a value and a step"),
        ({"metric": "kid", "value": math.nan, "step": 1}, "must be a finite number, got nan"),
        ({"metric": "kid", "value": "low", "step": 1}, "must be a number, got str"),
        ({"metric": "kid", "value": 1.0, "step": -1}, "must be an integer of at least 0, got -1"),
    ],
)
def test_a_best_value_of_another_form_is_named(state, error, tmp_path):
    best = BestWeights(tmp_path / "best", "kid")
    with pytest.raises((TypeError, ValueError), match=f"best value of the checkpoint {error}"):
        best.resume(state)
    if isinstance(state, dict):
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "best.json").write_text(json.dumps(state))
        with pytest.raises((TypeError, ValueError), match=rf"best value of \S+best\.json {error}"):
            BestWeights(tmp_path / "best", "kid")


def test_the_best_weights_are_kept_across_a_resume(tmp_path):
    def save(text):
        return lambda folder: (folder / "weights").write_text(text)

    best = BestWeights(tmp_path / "best", "kid")
    assert best.value is None
    assert best.update(0.5, 10, save("ten")) and not best.update(0.6, 20, save("twenty"))
    assert not best.update(math.nan, 25, save("nan"))
    resumed = BestWeights(tmp_path / "best", "kid")
    assert resumed.value == 0.5 and not resumed.update(0.5, 30, save("thirty"))
    assert resumed.update(0.4, 40, save("forty"))
    assert (tmp_path / "best" / "weights").read_text() == "forty" and resumed.value == 0.4

    def fail(folder):
        raise OSError("disk full")

    with pytest.raises(OSError):
        resumed.update(0.3, 50, fail)
    assert (tmp_path / "best" / "weights").read_text() == "forty" and resumed.value == 0.4
    score = BestWeights(tmp_path / "score", "is", higher_is_better=True)
    assert score.update(2.0, 1, save("a")) and score.update(3.0, 2, save("b")) and not score.update(2.5, 3, save("c"))
