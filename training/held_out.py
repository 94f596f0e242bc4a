"""Images that are not trained on: which they are, what the network is told of them, and the loss that is measured."""

import argparse

import torch
from torch import Tensor

from .class_embedding import null_label
from .evaluation.during_training import HeldOutLoss
from .objectives import EDMWeighting, score_matching
from .pipeline_loading import Components
from .seeding import combined_seed


BANDS = 4
REAL_IMAGES = 1000  # for the KID: at most, unless more are generated


def held_out_indices(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Which of `count` images are trained on and which are held out, by a permutation that the seed fixes.

    Raises:
        ValueError: one of the two would be empty.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(combined_seed(seed, count))).tolist()
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise ValueError(
            f"validation_fraction must leave images to train on and to hold out, got {fraction} of {count} images"
        )
    return sorted(order[held_out:]), sorted(order[:held_out])


def images_needed(args: argparse.Namespace) -> int:
    """How many held-out images the measurements choose from where a split is streamed."""
    held_out = max(args.validation_num_images, args.eval_num_bpd_images or 0)
    return held_out if args.eval_features is None else max(held_out, args.eval_num_images, REAL_IMAGES)


def held_out_loss(
    components: Components, images: Tensor, labels: Tensor | None, batch_size: int, seed: int
) -> HeldOutLoss:
    """The loss that is measured, whatever objective is trained: runs with different objectives can be compared.

    It is the mean square of the error of the noise prediction that the network's output amounts to, and for "edm" of
    the output itself. A network that predicts no noise has the loss 1, for "edm" one whose output is zero has it on data
    of the mean and standard deviation in the scheduler's configuration. The times are those that are sampled, from
    `sampling_eps` to T.
    """
    scheduler = components.scheduler
    edm = scheduler.config.prediction_type == "edm"
    return HeldOutLoss(
        images,
        components.data_range,
        scheduler.sde,
        scheduler.config.sampling_eps,
        bands=BANDS,
        batch_size=batch_size,
        seed=seed,
        labels=labels,
        parameterization=scheduler.parameterization,
        weighting=EDMWeighting(scheduler.config.sigma_data) if edm else score_matching,
    )


def choose(count: int, limit: int, seed: int) -> list[int]:
    """At most `limit` of `count` indices, by a permutation that the seed fixes."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(combined_seed(seed, 1)))[:limit].tolist()


def network_labels(components: Components, labels: Tensor | None, chosen: list[int]) -> Tensor | None:
    """What the network is told for the images `chosen`: their class, "no class" where it is unknown, or nothing."""
    if components.class_names is None:
        return None
    if labels is None:
        return torch.full((len(chosen),), null_label(components.unet))
    return labels[torch.as_tensor(chosen)]
