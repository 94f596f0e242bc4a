"""Colorization: colors for a gray image."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .call_options import StepCallback
from .image_inputs import gray_to_tensor
from .pipeline_output import ScoreSdePipelineOutput
from .restoration import LinearInversePipeline
from .restoration_options import RestorationOptions
from .schedulers import GrayOperator
from .schedulers.checks import Generator, check_number, check_numbers


class ScoreSdeColorizationPipeline(LinearInversePipeline):
    """Colors gray images with an unconditional model of color images (paper section 5 and appendix I.2).

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the images.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeColorizationPipeline, shipped
    >>> pipe = ScoreSdeColorizationPipeline.from_pretrained(shipped("emoji-32-ve"))
    >>> images = pipe(image=image.convert("L"), num_samples=4).images
    ```
    """

    def __call__(
        self,
        image: Any,
        method: str = "moment_matching",
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        gray_weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
        noise_std: float = 0.0,
        sampler: str | None = "scheduler",
        solver_tolerance: float = 0.003,
        solver_iterations: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
        quality: str | None = None,
        resize: str | None = None,
        height: int | None = None,
        width: int | None = None,
        tile_size: int | tuple[int, int] | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int = 16,
    ) -> ScoreSdePipelineOutput | tuple:
        """Colors gray images.

        Args:
            image: the gray image or images, in the network's size unless `resize` or `tile_size` is given: PIL of any mode,
                an array (H, W) or (H, W, 1), a tensor (1, H, W) or (B, 1, H, W), or a list. Integers are 8-bit, floats lie
                in [0, 1]. Of a color image `gray_weights` makes the gray one.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step) or "replacement" (the paper's: biased, but it makes full use of the scheduler's corrector).
            num_samples (`int`): samples per image; sample `k` of image `b` is number `b * num_samples + k`.
            gray_weights (`tuple`): how the gray value was made of the channels: by default their mean (the paper);
                (0.299, 0.587, 0.114) is Pillow's conversion to "L".
            noise_std (`float`): noise of the gray values, for images in [0, 1]; 8-bit rounding has 0.0011.
            resize (`str`, *optional*): for images of other sizes than the network's: "crop" resizes them and cuts out the
                middle, which is colored; "pad" shrinks them where they are larger, and the result is all of them, with no
                border. By default their size must fit.
            height, width (`int`, *optional*): size of the result, by default that of the network, or with `tile_size` that
                of the picture; images of another size need `resize`.
            tile_size (`int` or `(height, width)`, *optional*): sample images larger than the network's size on overlapping
                tiles of this size, jointly (see `TiledScore`); an evaluation of all tiles counts as one in `nfe`.
            tile_overlap (`int`, *optional*): by how many pixels tiles overlap at least, by default half a tile.
            tile_batch_size (`int`): number of tiles that the network is called with at a time.

        The other arguments and the returned fields are those of `ScoreSdeInverseProblemPipeline`; the default of
        `sampler` is the one that measured best with trained networks.

        Raises:
            TypeError, ValueError: for images of another size or out of range, a network without color, and arguments
                out of their range, before any sampling.
        """
        options = RestorationOptions.of(locals())
        channels = self.sample_shape[0]
        size = self.size_at(options)
        gray_weights = check_numbers("gray_weights", gray_weights)
        if channels == 1:
            raise ValueError("unet must generate images with colors, got a network of 1 channel")
        if len(gray_weights) != channels:
            raise ValueError(f"gray_weights must have one weight per channel, {channels}, got {len(gray_weights)}")
        if not any(gray_weights):
            raise ValueError(f"gray_weights must be finite and not all zero, got {gray_weights}")
        check_number("noise_std", noise_std, 0)
        operator = GrayOperator(gray_weights)
        gray = gray_to_tensor(image, gray_weights, size if resize is None else None)
        return self.solve_fitted(gray, operator, noise_std, options, size, resize)
