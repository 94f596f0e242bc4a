"""Super-resolution: images in the network's size whose averages over blocks of pixels are a small image."""

from typing import Any

from torch import Tensor

from .image_inputs import images_to_tensor
from .pipeline_base import Generator, StepCallback
from .pipeline_output import ScoreSdePipelineOutput
from .restoration import LinearInversePipeline
from .restoration_options import RestorationOptions
from .schedulers import AveragePoolOperator
from .schedulers.checks import check_integer, check_number


class ScoreSdeSuperResolutionPipeline(LinearInversePipeline):
    """Enlarges images to the network's size with an unconditional model: samples given the mean of each block of pixels.

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the large images.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeSuperResolutionPipeline, shipped
    >>> pipe = ScoreSdeSuperResolutionPipeline.from_pretrained(shipped("emoji-32-ve"))
    >>> images = pipe(image=image.resize((8, 8)), scale=4, num_samples=4).images
    ```
    """

    def __call__(
        self,
        image: Any,
        scale: int = 4,
        method: str = "moment_matching",
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
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
        """Enlarges images; the means over `scale` x `scale` pixels of the result are the given image.

        Args:
            image: the small image or images, in the network's size divided by `scale`, unless `resize` or `tile_size` is
                given; of the kinds that `ScoreSdeInpaintPipeline` takes.
            scale (`int`): the ratio of the two sizes; it divides the network's size.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step) or "replacement" (takes the image as exact, and is biased).
            num_samples (`int`): samples per image; sample `k` of image `b` is number `b * num_samples + k`.
            noise_std (`float`): noise of the small image, whose values lie in [0, 1]; 8-bit rounding has 0.0011.
            resize (`str`, *optional*): for images of other sizes than the small one: "crop" resizes them and cuts out the
                middle, whose enlargement is the result; "pad" shrinks them where they are larger, and the result is all of
                them, with no border. Both shrink large images before they are enlarged: `tile_size` enlarges images of
                any size. By default their size must fit.
            height, width (`int`, *optional*): size of the result, by default that of the network, or with `tile_size` that
                of the picture times `scale`; images of another size need `resize`.
            tile_size (`int` or `(height, width)`, *optional*): sample images larger than the network's size on overlapping
                tiles of this size, jointly (see `TiledScore`); an evaluation of all tiles counts as one in `nfe`.
            tile_overlap (`int`, *optional*): by how many pixels tiles overlap at least, by default half a tile.
            tile_batch_size (`int`): number of tiles that the network is called with at a time.

        The other arguments and the returned fields are those of `ScoreSdeInverseProblemPipeline`; the default of
        `sampler` is the one that measured best with trained networks.

        Raises:
            TypeError, ValueError: for a scale that does not divide the network's size, images of another size or out of
                range, and arguments out of their range, before any sampling.
        """
        options = RestorationOptions.of(locals())
        check_integer("scale", scale)
        large, size = self.size_at(height, width, options), None
        if large is not None:
            if large[0] % scale or large[1] % scale:
                raise ValueError(f"scale must divide the network's height and width {large}, got {scale}")
            size = (large[0] // scale, large[1] // scale)
        check_number("noise_std", noise_std, 0)
        small = images_to_tensor(image, self.sample_shape[0], size if resize is None else None)
        return self.solve_fitted(small, AveragePoolOperator(scale), noise_std, options, size, resize, scale)
