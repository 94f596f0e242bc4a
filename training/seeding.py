"""Random numbers that depend on the position of a run and not on earlier draws."""

from collections.abc import Sequence

import numpy as np
import torch


def combined_seed(*parts: int) -> int:
    """One well-mixed 63-bit seed from several non-negative numbers, such as (seed, step, process)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def likelihood_seed(seed: int, row: int) -> int:
    """The seed of all draws for the likelihood of the image in this row of a data set."""
    return (seed * 2**32 + row) % 2**63


class ImageDraws:
    """Random numbers of the images at some positions of the training stream.

    Each image has four 64-bit words: the output of the counter-based generator Philox for the key `seed` and the
    counter `position`. They do not depend on how the stream is divided into batches, processes and accumulation steps.

    Args:
        seed: seed of the run, non-negative.
        position: images that all processes together have consumed before the first of these.
        count: number of images.
    """

    def __init__(self, seed: int, position: int, count: int) -> None:
        self._seed, self._position = seed, position
        words = np.random.Philox(key=seed, counter=position).random_raw(4 * count).reshape(count, 4)
        self._noise_seeds = [int(word) for word in words[:, 0] >> np.uint64(1)]
        # 53 bits: every value is a float64 in [0, 1).
        self._uniforms = torch.from_numpy((words[:, 1:] >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    @property
    def time(self) -> torch.Tensor:
        """Uniform in [0, 1), float64, shape (count,): which time an image is noised to."""
        return self._uniforms[:, 0]

    @property
    def label(self) -> torch.Tensor:
        """Uniform in [0, 1), float64, shape (count,): whether its label is dropped."""
        return self._uniforms[:, 1]

    @property
    def flip(self) -> torch.Tensor:
        """Uniform in [0, 1), float64, shape (count,): whether it is mirrored."""
        return self._uniforms[:, 2]

    def augmentation(self, count: int) -> torch.Tensor:
        """Uniforms in [0, 1), float64, shape (images, count): how each is augmented."""
        blocks = -(-count // 4)  # the generator makes four words for each value of its counter
        words = np.random.Philox(key=combined_seed(self._seed, 1), counter=self._position * blocks)
        uniforms = (words.random_raw(4 * blocks * len(self._noise_seeds)) >> np.uint64(11)).astype(
            np.float64
        ) * 2.0**-53
        return torch.from_numpy(uniforms).reshape(len(self._noise_seeds), 4 * blocks)[:, :count]

    def noise(self, shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
        """Standard normal noise, float32, shape (count, *shape); each image from a seed of its own."""
        generator = torch.Generator(device)
        noise = torch.empty((len(self._noise_seeds), *shape), device=device)
        for image, seed in zip(noise, self._noise_seeds):
            image.normal_(generator=generator.manual_seed(seed))
        return noise


def stratified(jitter: torch.Tensor, seed: int, update: int, first: int, total: int) -> torch.Tensor:
    """Uniforms of which exactly one of `total` falls into each [k / total, (k + 1) / total).

    The strata of the images of one update are in random order: no process or accumulation step gets small times alone.

    Args:
        jitter: uniforms in [0, 1), float64, shape (B,).
        seed, update: fix the order of the strata.
        first: position of the first of these images within the update.
        total: images of the update, of all processes and accumulation steps.
    """
    order = np.random.default_rng([seed, update]).permutation(total)[first : first + len(jitter)]
    return (torch.from_numpy(order) + jitter) / total
