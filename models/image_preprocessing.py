"""What an image processor of `transformers` does to pictures, as differentiable tensor operations.

The processors themselves work on 8-bit pictures and stop gradients. Here images are resized in float, antialiased, so that
a classifier can guide sampling, and features do not jump with the rounding to integers.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..schedulers.checks import shown


# PIL's numbers for resampling filters, which processors are saved with; torch has two of them antialiased.
RESAMPLING = {1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear"}
CONVNEXT_WHOLE = 384  # from this size on ConvNeXT's processor resizes without a crop


class ImagePreprocessing:
    """Images in [0, 1], (B, C, H, W), to the `pixel_values` of a vision model.

    Args:
        processor: an image processor of `transformers` (`AutoImageProcessor.from_pretrained(...)`), or a dictionary with
            the content of its `preprocessor_config.json`.

    Raises:
        ValueError: for a processor with an option that is not known here (padding, `longest_edge`, `rescale_offset`).

    Example:

    ```python
    processor = AutoImageProcessor.from_pretrained("google/vit-base-patch16-224")
    logits = model(pixel_values=ImagePreprocessing(processor)(images)).logits
    ```
    """

    def __init__(self, processor: Any) -> None:
        config = processor if isinstance(processor, dict) else processor.to_dict()
        for option in ("do_pad", "rescale_offset", "do_thumbnail"):
            if config.get(option):
                raise ValueError(f"processor must not have {option}, got {shown(config[option])}")
        self.resize = _size(config["size"]) if config.get("do_resize", True) and config.get("size") else None
        self.crop = _size(config["crop_size"]) if config.get("do_center_crop") else None
        if isinstance(self.resize, int) and config.get("crop_pct"):
            edge = self.resize
            whole = edge >= CONVNEXT_WHOLE
            self.resize, self.crop = ((edge, edge), None) if whole else (int(edge / config["crop_pct"]), (edge, edge))
        self.mode = RESAMPLING.get(int(config.get("resample") or 2), "bilinear")
        normalize = config.get("do_normalize", True) and config.get("image_mean") is not None
        self.mean = tuple(config["image_mean"]) if normalize else (0.0,)
        self.std = tuple(config["image_std"]) if normalize else (1.0,)
        # Pixels are 8-bit for the processor: a factor of 1 / 255 keeps images in [0, 1].
        self.scale = 255 * float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 255.0

    def __call__(self, images: Tensor) -> Tensor:
        """`pixel_values` (B, C', height, width) in float32; gray images are repeated to as many channels as the mean has.

        Raises:
            ValueError: for another number of channels.
        """
        channels = max(len(self.mean), images.shape[1])
        if len(self.mean) > 1 and images.shape[1] not in (1, len(self.mean)):
            raise ValueError(f"images must have 1 or {len(self.mean)} channels, got {images.shape[1]}")
        x = images.float().expand(-1, channels, -1, -1)
        if self.resize is not None:
            x = functional.interpolate(x, self._target(x), mode=self.mode, antialias=True, align_corners=False)
        if self.crop is not None:
            x = _center_crop(x, *self.crop)  # type: ignore[misc]  # a crop size has two numbers
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (self.scale * x - mean) / std

    def _target(self, x: Tensor) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            assert self.resize is not None
            return self.resize
        height, width = x.shape[-2:]
        ratio = self.resize / min(height, width)
        return (self.resize, int(width * ratio)) if height <= width else (int(height * ratio), self.resize)

    def __repr__(self) -> str:
        options = {name: getattr(self, name) for name in ("resize", "crop", "mode", "scale", "mean", "std")}
        return f"ImagePreprocessing({', '.join(f'{name}={value}' for name, value in options.items())})"


def _size(size: Any) -> int | tuple[int, int]:
    """(height, width), or the length of the shorter side."""
    if isinstance(size, int):
        return size, size
    if size.get("height"):
        return int(size["height"]), int(size["width"])
    if size.get("shortest_edge") and not size.get("longest_edge"):
        return int(size["shortest_edge"])
    raise ValueError(f"processor must have a size of height and width, or of the shortest edge, got {size}")


def _center_crop(x: Tensor, height: int, width: int) -> Tensor:
    """The centre of images (B, C, H, W), with black around those that are smaller."""
    missing = [max(0, want - have) for want, have in ((width, x.shape[-1]), (height, x.shape[-2]))]
    pads = [side for gap in missing for side in (gap // 2, math.ceil(gap / 2))]
    x = functional.pad(x, pads)
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
