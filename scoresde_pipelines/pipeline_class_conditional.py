"""Class-conditional generation, with a classifier beside an unconditional network or with a conditional network."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .models import NoiseConditionalClassifier
from .pipeline_base import Generator, SDEPipelineBase, StepCallback
from .pipeline_inverse_problem import conditioned_network
from .pipeline_output import ScoreSdePipelineOutput
from .schedulers import ClassifierGuidance
from .schedulers.checks import check_integer, check_number
from .schedulers.sde import expand_to


class ScoreSdeClassConditionalPipeline(SDEPipelineBase):
    """Images of given classes (paper section 5).

    With a `classifier` the network is unconditional, and the gradient of log p(class | x_t) joins its score in
    predictor, corrector and ODE alike. Without one the network itself takes `class_labels`
    (`NCSNpp(num_class_embeds=...)`), and classifier-free guidance combines its scores with and without the label.

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`.
        classifier (*optional*): a `NoiseConditionalClassifier`, called as `classifier(x / alpha, sigma / alpha).logits`.
            One classifier serves every SDE, and every range of data.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeClassConditionalPipeline, shipped
    >>> pipe = ScoreSdeClassConditionalPipeline.from_pretrained(shipped("fashion-mnist-32-vp"), classifier=classifier)
    >>> boots = pipe(class_labels=[9] * 4, guidance_scale=2.0, num_inference_steps=200).images
    ```
    """

    _optional_components = ["classifier"]
    model_cpu_offload_seq = "classifier->unet"  # type: ignore[assignment]
    classifier: Any

    def __init__(
        self,
        unet: torch.nn.Module,
        scheduler: Any,
        classifier: torch.nn.Module | None = None,
        data_min: float | None = None,
        data_max: float | None = None,
    ):
        super().__init__(unet, scheduler, data_min, data_max)
        if classifier is not None and not hasattr(getattr(classifier, "config", None), "num_classes"):
            raise TypeError(
                f"classifier must be a NoiseConditionalClassifier or alike, got {type(classifier).__name__}"
            )
        self.register_modules(classifier=classifier)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | list[int] | Tensor,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 1000,
        num_samples: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        ode_tolerance: float | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
    ) -> ScoreSdePipelineOutput | tuple:
        """Generates images of the given classes.

        Args:
            class_labels (`int`, `list[int]` or `torch.Tensor`): the class of each image.
            guidance_scale (`float`): 0 ignores the class, 1 samples p(x | class), more sharpens it: fewer doubtful
                images, less diversity.
            num_inference_steps (`int`): number of noise levels; the network is called `scheduler.order` times at each.
            num_samples (`int`): images per label; sample `k` of label `b` is number `b * num_samples + k`.
            generator (`torch.Generator` or a list of them): source of all randomness.
            latents (`torch.Tensor`, *optional*): unit noise (B, channels, height, width) to start from.
            output_type (`str`): "pil", "np", "pt", or "latent" for the raw state.
            return_dict (`bool`): whether to return a `ScoreSdePipelineOutput` or a tuple of its fields.
            ode_tolerance (`float`, *optional*): solve the probability-flow ODE adaptively to this error instead.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, i, timestep, {"latents": ...})`
                after each step; may return a dict with new `latents`.

        Returns:
            `images` and `nfe`: evaluations of the network for each image, two where it is asked with and without the
            label; those of the classifier, one forward and backward pass a step, are not counted.

        Raises:
            ValueError: for a label out of range, a classifier for other images, or an argument out of its range, before
                any work is done.
        """
        check_integer("num_samples", num_samples)
        labels = self.check_labels(class_labels, guidance_scale).repeat_interleave(num_samples)
        self.check_inputs(
            len(labels), num_inference_steps, generator, latents, output_type, callback_on_step_end_tensor_inputs
        )
        if ode_tolerance is not None:
            check_number("ode_tolerance", ode_tolerance, 0, 1, ends="()")
        labels = labels.to(self._execution_device)
        latents = self.prepare_latents(len(labels), generator, latents)
        score_fn = partial(self.guided_score, scale=float(guidance_scale))
        calls = 2 if self.classifier is None and guidance_scale not in (0, 1) else 1
        nfe: int | Tensor
        if ode_tolerance is not None:
            latents, nfe = self.solve_ode(latents, ode_tolerance, score_fn, {"class_labels": labels})
        else:
            self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
            network = conditioned_network(partial(score_fn, class_labels=labels), self.scheduler)
            latents = self.run_sampler(
                latents, generator, network, callback_on_step_end, callback_on_step_end_tensor_inputs
            )
            nfe = len(self.scheduler.timesteps)
        self.maybe_free_model_hooks()
        output = ScoreSdePipelineOutput(self.to_images(latents, output_type), nfe=calls * nfe)
        return output if return_dict else (output.images, output.nfe)

    # ------------------------------------------------------------------ checks

    @property
    def num_classes(self) -> int:
        """Number of classes that the classifier, or else the network, tells apart."""
        if self.classifier is not None:
            return self.classifier.config.num_classes
        return self.unet.config.get("num_class_embeds") or 0

    def check_labels(self, class_labels: Any, guidance_scale: float) -> Tensor:
        """The labels as int64, shape (B,); raises ValueError where they, the scale or the modules do not fit."""
        check_number("guidance_scale", guidance_scale, 0)
        if self.num_classes == 0:
            raise ValueError(
                "the network has no classes (num_class_embeds is not set): give the pipeline a classifier"
            )
        if class_labels is None or isinstance(class_labels, str):
            raise TypeError(f"class_labels must be an integer or a list of integers, got {class_labels!r}")
        try:
            labels = torch.as_tensor(class_labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"class_labels must be an integer or a list of integers, got {class_labels!r}") from error
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim > 1 or labels.numel() == 0:
            raise ValueError(f"class_labels must be an integer or a list of integers, got {class_labels!r}")
        if int(labels.min()) < 0 or int(labels.max()) >= self.num_classes:
            raise ValueError(f"class_labels must lie in 0..{self.num_classes - 1}, got {labels.tolist()}")
        if self.classifier is not None:
            self._check_classifier()
        elif guidance_scale != 1 and not self._knows_no_class():
            raise ValueError(
                f"guidance_scale {guidance_scale} needs a network with a label for 'no class' (NCSNpp, DDPMpp); "
                "this one can only be sampled with 1"
            )
        return labels.reshape(-1).long()

    def _check_classifier(self) -> None:
        config, (channels, *size) = self.classifier.config, self.sample_shape
        own = config.get("sample_size") or tuple(size)
        own = (own, own) if isinstance(own, int) else tuple(own)
        if (config.in_channels, *own) != (channels, *size):
            raise ValueError(
                f"classifier must be made for images of shape {self.sample_shape} as the network is, "
                f"got one for {(config.in_channels, *own)}"
            )
        if isinstance(self.classifier, NoiseConditionalClassifier) and any(side % 4 for side in size):
            raise ValueError(
                f"classifier needs images with sides divisible by 4, those of the network are {tuple(size)}"
            )

    def _knows_no_class(self) -> bool:
        embedding = getattr(self.unet, "class_embedding", None)
        return getattr(embedding, "num_embeddings", 0) == self.num_classes + 1

    # ------------------------------------------------------------------ guidance

    def guided_score(self, x: Tensor, t: Tensor, class_labels: Tensor, scale: float) -> Tensor:
        """The guided score at `x` (B, *D) for labels (B,); `t` of shape () or (B,)."""
        if self.classifier is not None:
            guidance = ClassifierGuidance(partial(self.class_log_prob, class_labels=class_labels), scale)
            return guidance(self.scheduler.score_fn(self.network), x, t)
        no_class = torch.full_like(class_labels, self.num_classes)
        if scale in (0.0, 1.0):
            labels = class_labels if scale else no_class
            return self.scheduler.score_fn(self.network, class_labels=labels)(x, t)
        score_fn = self.scheduler.score_fn(self.network, class_labels=torch.cat([no_class, class_labels]))
        without, given = score_fn(torch.cat([x, x]), t.repeat(2) if t.ndim else t).chunk(2)
        return without + scale * (given - without)

    def class_log_prob(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        """log p(label | x_t = x), shape (B,), by the classifier, in its own range of data."""
        sde, config = self.scheduler.sde, self.classifier.config
        low, high = self.config.data_min, self.config.data_max
        scale = (config.data_max - config.data_min) / (high - low)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        # Divided by alpha, every SDE is a VE SDE: a clean image plus white noise.
        noisy = (x / expand_to(alpha, x) - low) * scale + config.data_min
        level = (scale * sigma / alpha).to(x.device, x.dtype).expand(len(x))
        logits = self.classifier(noisy.to(self.classifier.dtype), level).logits.float()
        return functional.log_softmax(logits, dim=1).gather(1, class_labels[:, None])[:, 0]
