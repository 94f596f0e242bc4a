"""Pictures of any size with blur and noise, as a problem for `ScoreSdeInverseProblemPipeline`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .image_fit import fit_images, inside, measured_inside
from .schedulers import BlurOperator, LinearOperator, MaskOperator
from .schedulers.checks import check_number


# What measured best for pictures with trained networks (docs/inverse_problems.md).
TRAINED_NETWORK = {"sampler": "scheduler", "solver_iterations": 1}


@dataclass(frozen=True)
class Deblurring:
    """What is measured of a blurred picture.

    Attributes:
        measurement: (B, C, H, W), in [0, 1].
        operator: the blur, of the part that is not border.
        place: rows and columns of that part.
    """

    measurement: Tensor
    operator: LinearOperator
    place: tuple[slice, slice]

    @classmethod
    def of(cls, images: Tensor, size: tuple[int, int] | None, resize: str | None, blur_std: float) -> "Deblurring":
        """The problem of blurred images (B, C, H, W), in [0, 1].

        Args:
            size: height and width to fit them to with `resize`, "crop" or "pad"; None leaves them as they are.
            blur_std: of the Gaussian blur in the fitted images, in pixels; 0 for none.

        Raises:
            ValueError: the blur reaches further than half of the images.
        """
        sides = (images.shape[-2], images.shape[-1])
        size, resize = (sides, None) if size is None else (size, resize)
        # The kernel reaches three standard deviations to each side.
        check_number("blur_std", blur_std, 0, (min(size) - 1) // 2 / 3)
        place = inside(sides, size, resize)
        # Without blur every pixel is measured.
        operator = BlurOperator.gaussian(blur_std) if blur_std else MaskOperator(torch.ones(size, device="cpu").bool())
        return cls(fit_images(images, size, resize), measured_inside(operator, place, size), place)
