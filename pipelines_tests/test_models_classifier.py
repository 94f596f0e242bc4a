"""The noise-conditional classifier: size, invariances, gradients, and that it learns what is exactly known."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from scoresde_pipelines.models.noise_conditional_classifier import NoiseConditionalClassifier, standardize
from scoresde_pipelines.schedulers import VESDE, VPSDE, ClassifierGuidance, SubVPSDE


@pytest.fixture
def classifier() -> NoiseConditionalClassifier:
    """The smallest one."""
    torch.manual_seed(0)
    return NoiseConditionalClassifier(depth=10, width=1, embedding_channels=8).eval()


def test_size_of_the_papers_network() -> None:
    """36,479,194 parameters without the noise level: the published Wide-ResNet-28-10 for ten classes."""
    with torch.device("meta"):
        network = NoiseConditionalClassifier()
    plain = [p.numel() for name, p in network.named_parameters() if "time_" not in name]
    assert sum(plain) == 36_479_194
    assert len([m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]) == 25


def test_scale_and_offset_of_an_image_do_not_matter(classifier: NoiseConditionalClassifier) -> None:
    images = torch.randn(4, 3, 32, 32)
    expected = classifier(images, 0.5).logits
    for scaled in (0.01 * images, 300 * images - 40):
        torch.testing.assert_close(classifier(scaled, 0.5).logits, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(classifier(images, 5.0).logits, expected, atol=1e-3)


def test_standardize() -> None:
    images = standardize(3 * torch.randn(2, 3, 16, 16, dtype=torch.float64) + 7)
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(images.square().mean(dim=(1, 2, 3)), torch.ones(2).double())
    assert torch.equal(standardize(torch.full((1, 3, 8, 8), 0.5)), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("sde", [VESDE(0.01, 50.0), VPSDE(), SubVPSDE()])
def test_log_prob_under_every_sde(classifier: NoiseConditionalClassifier, sde: VESDE) -> None:
    """The level that is passed on is sigma / alpha: a VP state says the same as the VE state it is a multiple of."""
    x, t, labels = torch.randn(3, 3, 32, 32), torch.tensor([0.1, 0.4, 0.7]), torch.tensor([1, 5, 9])
    level = sde.sigma(t) / sde.alpha(t)
    expected = F.log_softmax(classifier(x / sde.alpha(t)[:, None, None, None], level).logits, -1)
    value = classifier.log_prob_of(labels, sde)(x, t)
    torch.testing.assert_close(value, expected[torch.arange(3), labels], rtol=1e-3, atol=1e-4)
    total = sum(classifier.log_prob_of(torch.tensor([k]), sde)(x, t).exp() for k in range(10))
    torch.testing.assert_close(total, torch.ones(3))


def test_labels_follow_the_samples_of_an_adaptive_solver(classifier: NoiseConditionalClassifier) -> None:
    x, t, labels = torch.randn(3, 3, 16, 16), torch.tensor([0.1, 0.4, 0.7]), torch.tensor([1, 5, 9])
    log_prob, index = classifier.log_prob_of(labels, VPSDE()), torch.tensor([2, 0])
    torch.testing.assert_close(log_prob.rows(index)(x[index], t[index]), log_prob(x, t)[index])


def test_guidance_is_the_gradient(classifier: NoiseConditionalClassifier) -> None:
    network = classifier.double()
    x, t = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    log_prob = network.log_prob_of(torch.tensor([4]), VPSDE())
    guidance = ClassifierGuidance(lambda x, t: torch.zeros_like(x), log_prob, scale=2.0)(x, t)
    direction = torch.randn_like(x)
    step = 1e-5 * direction
    slope = (log_prob(x + step, t) - log_prob(x - step, t)) / 2e-5
    torch.testing.assert_close((guidance * direction).sum(), 2 * slope[0], rtol=1e-5, atol=1e-8)


def test_it_learns_bayes_rule() -> None:
    """Two classes, one pixel pattern and its negative: at noise level s, p(y | x) = sigmoid(2 <x, pattern> / s^2)."""
    torch.manual_seed(0)
    network = NoiseConditionalClassifier(depth=10, width=1, in_channels=1, num_classes=2, embedding_channels=8)
    pattern = torch.ones(8, 8)
    pattern[:, 4:] = -1
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)

    def noisy(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        labels = torch.randint(0, 2, (count,), generator=generator)
        levels = torch.exp(torch.rand(count, generator=generator) * 2.5 + 1)  # 2.7 .. 33
        images = (1 - 2 * labels)[:, None, None, None] * pattern
        return images + levels[:, None, None, None] * torch.randn(images.shape, generator=generator), labels, levels

    for _ in range(150):
        images, labels, levels = noisy(64)
        F.cross_entropy(network(images, levels).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    images, labels, levels = noisy(2000)
    exact = -F.logsigmoid(2 * (1 - 2 * labels) * (images * pattern).sum((1, 2, 3)) / levels**2).mean()
    with torch.no_grad():
        reached = F.cross_entropy(network.eval()(images, levels).logits, labels)
    chance = torch.tensor(2.0).log()
    assert exact - 0.02 < reached < exact + 0.25 * (chance - exact)


def test_save_load_and_checkpointing(classifier: NoiseConditionalClassifier, tmp_path: Path) -> None:
    images, levels = torch.randn(2, 3, 32, 32), torch.tensor([0.0, 3.0])
    classifier.save_pretrained(tmp_path)
    again = NoiseConditionalClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(images, levels).logits, classifier(images, levels).logits)
    assert torch.equal(again(images, levels, return_dict=False)[0], classifier(images, levels).logits)
    again.enable_gradient_checkpointing()
    for network in (classifier, again):
        network(images, levels).logits.square().sum().backward()
    assert torch.equal(again.conv_in.weight.grad, classifier.conv_in.weight.grad)


def test_half_precision_weights(classifier: NoiseConditionalClassifier) -> None:
    images, levels = torch.randn(4, 3, 32, 32), torch.tensor([0.01, 0.5, 3.0, 50.0])
    exact, frequencies = classifier(images, levels).logits, classifier.time_proj.weight.clone()
    half = classifier.to(torch.bfloat16)
    logits = half(images.to(torch.bfloat16), levels).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
    assert torch.equal(half.time_proj.weight, frequencies)


def test_bad_arguments_are_named(classifier: NoiseConditionalClassifier) -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 4 .* got 12"):
        NoiseConditionalClassifier(depth=12)
    with pytest.raises(ValueError, match=r"min_noise_level must be a finite number in \(0, 1e\+09\], got 0"):
        NoiseConditionalClassifier(depth=10, min_noise_level=0)
    with pytest.raises(ValueError, match=r"sample must have shape \(B, 3, H, W\).*got \(1, 3, 30, 32\)"):
        classifier(torch.zeros(1, 3, 30, 32), 1.0)
