"""Inpainting: new content for the white part of a mask."""

from typing import Any

import torch
from torch import Tensor

from .image_inputs import images_to_tensor, masks_to_tensor
from .image_outputs import export_images
from .pipeline_base import Generator, StepCallback
from .pipeline_output import ScoreSdePipelineOutput
from .restoration import LinearInversePipeline, RestorationOptions
from .schedulers import MaskOperator


class ScoreSdeInpaintPipeline(LinearInversePipeline):
    """Repaints the white part of a mask with an unconditional model (paper section 5 and appendix I.2).

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the images.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeInpaintPipeline, shipped
    >>> pipe = ScoreSdeInpaintPipeline.from_pretrained(shipped("emoji-32-ve"))
    >>> images = pipe(image=image, mask_image=mask, num_samples=4).images
    ```
    """

    def __call__(
        self,
        image: Any,
        mask_image: Any,
        method: str = "moment_matching",
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        sampler: str | None = "scheduler",
        solver_tolerance: float = 0.003,
        solver_iterations: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
        quality: str | None = None,
    ) -> ScoreSdePipelineOutput | tuple:
        """Inpaints images; the known pixels come back exactly.

        Args:
            image: the image or images, in the network's size: PIL of any mode, an array (H, W), (H, W, C) or
                (B, H, W, C), a tensor (C, H, W) or (B, C, H, W), or a list. Integers are 8-bit, floats lie in [0, 1].
            mask_image: white (at least one half) where to repaint; one mask, or one for each image.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step) or "replacement" (the paper's: biased, but it makes full use of the scheduler's corrector).
            num_samples (`int`): samples per image; sample `k` of image `b` is number `b * num_samples + k`.

        The other arguments and the returned fields are those of `ScoreSdeInverseProblemPipeline`; the default of
        `sampler` is the one that measured best with trained networks.

        Raises:
            TypeError, ValueError: for images or masks of another size, out of range or without white or black pixels,
                and arguments out of their range, before any sampling.
        """
        options = RestorationOptions.of(locals())
        channels, *size = self.sample_shape
        images = images_to_tensor(image, channels, (size[0], size[1]))
        repaint = masks_to_tensor(mask_image, len(images), (size[0], size[1]))
        self.check_options(options, len(images))

        images, known = (
            v.to(self._execution_device).repeat_interleave(num_samples, dim=0) for v in (images, ~repaint)
        )
        low, high = self.config.data_min, self.config.data_max
        operator = MaskOperator(known)
        x, nfe = self.restore(operator.A(low + (high - low) * images), operator, 0.0, options)
        self.maybe_free_model_hooks()
        self.check_images(x, output_type)
        # From and back to the data range a number may round; a known pixel must not.
        whole = torch.where(known, images, self.to_unit_range(x))
        output = ScoreSdePipelineOutput(x if output_type == "latent" else export_images(whole, output_type), nfe=nfe)
        return output if return_dict else (output.images, output.nfe)
