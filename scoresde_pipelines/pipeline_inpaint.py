"""Inpainting: new content for the white part of a mask."""

from typing import Any

import torch
from torch import Tensor

from .image_fit import fit_images, fit_masks, put_back, without_repainted
from .image_inputs import images_to_tensor, masks_to_tensor
from .image_outputs import export_images
from .pipeline_base import Generator, StepCallback
from .pipeline_output import ScoreSdePipelineOutput
from .restoration import LinearInversePipeline
from .restoration_options import RestorationOptions
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
        resize: str | None = None,
        height: int | None = None,
        width: int | None = None,
        tile_size: int | tuple[int, int] | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int = 16,
    ) -> ScoreSdePipelineOutput | tuple:
        """Inpaints images; the known pixels come back exactly.

        Args:
            image: the image or images, in the network's size unless `resize` or `tile_size` is given: PIL of any mode, an
                array (H, W), (H, W, C) or (B, H, W, C), a tensor (C, H, W) or (B, C, H, W), or a list. Integers are 8-bit,
                floats lie in [0, 1].
            mask_image: in the size of the images, white (at least one half) where to repaint; one mask, or one for each.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step) or "replacement" (the paper's: biased, but it makes full use of the scheduler's corrector).
            num_samples (`int`): samples per image; sample `k` of image `b` is number `b * num_samples + k`.
            resize (`str`, *optional*): for images of another size than the network's: "crop" repaints within their middle,
                "pad" anywhere, at a lower resolution. What is painted is put back into the original image, whose pixels
                outside of the mask keep their values. "latent" is the state in the network's size. By default the size
                must fit.
            height, width (`int`, *optional*): size to repaint in, by default that of the network, or with `tile_size` that
                of the picture; images of another size need `resize`.
            tile_size (`int` or `(height, width)`, *optional*): sample images larger than the network's size on overlapping
                tiles of this size, jointly (see `TiledScore`); an evaluation of all tiles counts as one in `nfe`.
            tile_overlap (`int`, *optional*): by how many pixels tiles overlap at least, by default half a tile.
            tile_batch_size (`int`): number of tiles that the network is called with at a time.

        The other arguments and the returned fields are those of `ScoreSdeInverseProblemPipeline`; the default of
        `sampler` is the one that measured best with trained networks.

        Raises:
            TypeError, ValueError: for images or masks of another size, out of range or without white or black pixels,
                and arguments out of their range, before any sampling.
        """
        options = RestorationOptions.of(locals())
        size = self.size_at(height, width, options)
        originals = images_to_tensor(image, self.sample_shape[0], size if resize is None else None)
        size = size or (originals.shape[-2], originals.shape[-1])
        repaint = masks_to_tensor(mask_image, len(originals), (originals.shape[-2], originals.shape[-1]))
        known = ~fit_masks(repaint, size, resize)
        images = fit_images(without_repainted(originals, repaint), size, resize)
        shape = self.shape_of(images, options)
        self.check_options(options, len(images), shape)

        images, known = (v.to(self._execution_device).repeat_interleave(num_samples, dim=0) for v in (images, known))
        originals, repaint = (v.repeat_interleave(num_samples, dim=0) for v in (originals, repaint))
        low, high = self.config.data_min, self.config.data_max
        operator = MaskOperator(known)
        x, nfe = self.restore(operator.A(low + (high - low) * images), operator, 0.0, options, shape)
        self.maybe_free_model_hooks()
        self.check_images(x, output_type)
        if output_type == "latent":
            return self.output(x, nfe, options)
        # From and back to the data range a number may round; a known pixel must not.
        whole = torch.where(repaint, put_back(self.to_unit_range(x).cpu(), originals, resize), originals)
        return self.output(export_images(whole.to(x.device), output_type), nfe, options)
