r"""Augmentation that does not leak (Karras et al. 2022, section 5 and appendix F.2): the network is told what was done.

Every image is mirrored, turned, scaled, stretched and shifted at random, each with probability `p`, and the network gets
the parameters as a vector of `AUGMENT_DIM` numbers, zero where nothing was done. Without the vector, as in sampling, it
generates images that were not augmented. For data sets of some thousand images.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..schedulers.checks import check_number, check_state
from ..schedulers.transfers import to_device


AUGMENT_DIM = 9  # mirrored left-right and up-down, scale, turn (2), stretch (2), shift (2)
UNIFORMS = 14  # which of the six are done, and their eight parameters
SCALE_STD = 0.2  # of the base-2 logarithm
SHIFT_STD = 0.125  # of the image's side


def augment(images: Tensor, uniforms: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Augmented images and what was done to them.

    Pixels from outside of an image are its reflection. Where nothing is done, an image stays exactly as it is.

    Args:
        images: floating-point, shape (B, C, H, W).
        uniforms: independent numbers in [0, 1), shape (B, `UNIFORMS`): all randomness.
        probability: of each of the six operations.

    Returns:
        images (B, C, H, W), in the dtype and on the device of `images`, and the parameters (B, `AUGMENT_DIM`), float32.

    Raises:
        TypeError, ValueError: naming an argument of another shape, or not in its range.
    """
    probability = check_number("probability", probability, 0, 1)
    if check_state("images", images).ndim != 4:  # the values stay unread: on a GPU every update would wait for them
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if tuple(check_state("uniforms", uniforms).shape) != (len(images), UNIFORMS):
        raise ValueError(f"uniforms must have shape ({len(images)}, {UNIFORMS}), got {tuple(uniforms.shape)}")
    parameters = _parameters(uniforms.double().cpu(), probability)
    inverse = _inverse_maps(parameters, images.shape[-2] / images.shape[-1])
    grid = F.affine_grid(
        to_device(inverse[:, :2], images.device, torch.float32), list(images.shape), align_corners=False
    )
    warped = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    labels = to_device(_labels(parameters), images.device, torch.float32)
    changed = (labels != 0).any(dim=1).reshape(-1, 1, 1, 1)
    return torch.where(changed, warped.to(images.dtype), images), labels


def _parameters(u: Tensor, probability: float) -> dict[str, Tensor]:
    """The parameters of every operation, (B,); 0 where it is not done."""
    done = (u[:, :6] < probability).double()
    normal = torch.special.ndtri(u[:, 6:].clamp(1e-12, 1 - 1e-12))
    fair, angle = (u[:, 6:] < 0.5).double(), (2 * u[:, 6:] - 1) * math.pi
    return {
        "mirror_x": done[:, 0] * fair[:, 0],
        "mirror_y": done[:, 1] * fair[:, 1],
        "scale": done[:, 2] * normal[:, 2],
        "turn": done[:, 3] * angle[:, 3],
        "stretch_axis": done[:, 4] * angle[:, 4],
        "stretch": done[:, 4] * normal[:, 5],
        "shift_x": done[:, 5] * normal[:, 6],
        "shift_y": done[:, 5] * normal[:, 7],
    }


def _labels(p: dict[str, Tensor]) -> Tensor:
    columns = [p["mirror_x"], p["mirror_y"], p["scale"], p["turn"].cos() - 1, p["turn"].sin()]
    columns += [p["stretch"] * p["stretch_axis"].cos(), p["stretch"] * p["stretch_axis"].sin()]
    return torch.stack([*columns, p["shift_x"], p["shift_y"]], dim=1)


def _inverse_maps(p: dict[str, Tensor], aspect: float) -> Tensor:
    """From a place in the augmented image to the one in the original, (B, 3, 3), in coordinates from -1 to 1.

    Args:
        aspect: height / width: turns and stretches are those of square pixels.
    """
    square = torch.diag(torch.tensor([1.0, aspect, 1.0], dtype=torch.float64))
    scale, stretch = torch.exp2(-SCALE_STD * p["scale"]), torch.exp2(-SCALE_STD * p["stretch"])
    along = _turn(p["stretch_axis"]) @ _diagonal(stretch, 1 / stretch) @ _turn(-p["stretch_axis"])
    shift = _diagonal(torch.ones_like(scale), torch.ones_like(scale))
    shift[:, 0, 2], shift[:, 1, 2] = -2 * SHIFT_STD * p["shift_x"], -2 * SHIFT_STD * p["shift_y"]
    turned = torch.linalg.inv(square) @ along @ _turn(-p["turn"]) @ square
    return _diagonal(1 - 2 * p["mirror_x"], 1 - 2 * p["mirror_y"]) @ _diagonal(scale, scale) @ turned @ shift


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _turn(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero], [zero, zero, one]]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
