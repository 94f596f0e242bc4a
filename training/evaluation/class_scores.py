r"""Inception score (Salimans et al. 2016) from the class scores of any classifier.

    IS = exp( mean_i KL(p_i | p) ),    p = mean_i p_i

with p_i the class probabilities of image i. It compares with no data: 1 is the worst, the number of classes the best.
The score of N images is biased upwards; the standard error is the jackknife's over images. torchmetrics cuts the images
into ten random parts first; with one part its value is this one.
"""

import math

import torch
from torch import Tensor

from .estimate import Estimate, jackknife_variance


def inception_score(logits: Tensor) -> Estimate:
    """The score of images with class scores `logits` (N, classes), before the softmax; computed in float64.

    Raises:
        ValueError: fewer than two images.
    """
    if logits.ndim != 2 or len(logits) < 2:
        raise ValueError(f"logits must have shape (N, classes) with N >= 2, got {tuple(logits.shape)}")
    log_p = torch.log_softmax(logits.double(), dim=1)
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(dim=1)  # of each image
    count = len(p)
    value = (negative_entropy.mean() + _entropy(p.mean(dim=0))).exp()
    without_p = (p.sum(dim=0) - p) / (count - 1)
    without = (negative_entropy.sum() - negative_entropy) / (count - 1) + _entropy(without_p)
    return Estimate(float(value), math.sqrt(jackknife_variance(without.exp())))


def _entropy(p: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return -torch.xlogy(p, p).sum(dim=-1)
