"""Class-conditional generation, with an unconditional network and a classifier, or with a conditional network."""

from typing import Any

import torch
from torch import Tensor

from .call_options import StepCallback
from .class_evidence import classifier_kind, clean_log_prob
from .generation import GeneratingPipeline, GenerationOptions
from .image_sizes import check_tiles
from .model_facts import Classes
from .models import NoiseConditionalClassifier
from .models.config_checks import height_and_width
from .models.image_preprocessing import ImagePreprocessing
from .models.noise_conditional_classifier import noisy_log_prob
from .pipeline_output import ScoreSdePipelineOutput
from .schedulers import ClassifierFreeGuidance, ClassifierGuidance, DenoisedClassifierGuidance, PerSample
from .schedulers.checks import Generator, check_integer, check_number, shown
from .schedulers.guidance_scale import check_interval
from .schedulers.score_function import ScoreFunction
from .schedulers.sde import LARGEST_SIGMA
from .weak_guidance import WeakGuidance, check_weak_classes


class ScoreSdeClassConditionalPipeline(GeneratingPipeline):
    """Images of given classes (paper section 5).

    With a `classifier` the network is unconditional, and the gradient of log p(class | x_t) joins its score in
    predictor, corrector and ODE alike. Without one the network itself takes `class_labels`
    (`NCSNpp(num_class_embeds=...)`, trained with `--class_conditional`), and classifier-free guidance combines its scores
    with and without the label.

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`.
        classifier (*optional*): a `NoiseConditionalClassifier`, called as `classifier(x / alpha, sigma / alpha).logits`: one
            serves every SDE and every range of data. Or any image classifier of `transformers`, evaluated on the denoised
            image.
        image_processor (*optional*): the image processor of a classifier of `transformers`.
        id2label (`dict`, *optional*): names of the network's classes, by their number; `class_labels` may then be names. A
            classifier of `transformers` brings its own names.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeClassConditionalPipeline, shipped
    >>> pipe = ScoreSdeClassConditionalPipeline.from_pretrained(shipped("fashion-mnist-32-vp"), classifier=classifier)
    >>> boots = pipe(class_labels=[9] * 4, guidance_scale=2.0, num_inference_steps=200).images
    ```
    """

    _optional_components = ["classifier", "image_processor"]
    model_cpu_offload_seq = "classifier->unet"  # type: ignore[assignment]
    classifier: Any
    image_processor: Any

    def __init__(
        self,
        unet: torch.nn.Module,
        scheduler: Any,
        classifier: torch.nn.Module | None = None,
        data_min: float | None = None,
        data_max: float | None = None,
        id2label: dict[int, str] | dict[str, str] | None = None,
        image_processor: Any = None,
    ):
        super().__init__(unet, scheduler, data_min, data_max, id2label)
        if classifier is not None and classifier_kind(classifier) == "clean" and image_processor is None:
            raise ValueError(
                "image_processor must be given with a classifier of transformers "
                "(AutoImageProcessor.from_pretrained of the same name), got None"
            )
        self.register_modules(classifier=classifier, image_processor=image_processor)

    def __call__(
        self,
        class_labels: int | str | list[int] | list[str] | Tensor,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        ode_tolerance: float | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
        guidance_interval: tuple[float, float] | None = None,
        quality: str | None = None,
        num_restarts: int = 0,
        height: int | None = None,
        width: int | None = None,
        tile_size: int | tuple[int, int] | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int = 16,
        weak_unet: torch.nn.Module | None = None,
        weak_guidance_scale: float | None = None,
        weak_guidance_interval: tuple[float, float] | None = None,
    ) -> ScoreSdePipelineOutput | tuple:
        """Generates images of the given classes.

        Args:
            class_labels (`int`, `str`, a list of them or `torch.Tensor`): the class of each image, by number or name.
            guidance_scale (`float`): 0 ignores the class, 1 samples p(x | class), more sharpens it: fewer doubtful
                images, less diversity.
            num_inference_steps (`int`, *optional*): number of noise levels; the network is called `scheduler.order` times at
                each. By default that of `quality`.
            num_samples (`int`): images per label; sample `k` of label `b` is number `b * num_samples + k`.
            generator (`torch.Generator` or a list of them): source of all randomness.
            latents (`torch.Tensor`, *optional*): unit noise (B, channels, height, width) to start from.
            output_type (`str`): "pil", "np", "pt", or "latent" for the raw state.
            return_dict (`bool`): whether to return a `ScoreSdePipelineOutput` or a tuple of its fields.
            ode_tolerance (`float`, *optional*): solve the probability-flow ODE adaptively to this error instead.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, i, timestep, {"latents": ...})`
                after each step; may return a dict with new `latents`.
            guidance_interval (`tuple`, *optional*): noise ratios sigma / alpha, (low, high), between which the scale acts
                (Kynkaanniemi et al. 2024). Elsewhere a conditional network has a scale of 1, a classifier one of 0.
            quality (`str`, *optional*): "draft" (20 network calls), "default" (100) or "paper" (the paper's sampler, 1000
                levels of two calls). Without it, `num_inference_steps` are levels of the scheduler as it is; with neither, a
                scheduler whose configuration names no sampler uses "default", and others their own.
            num_restarts (`int`): with `ode_tolerance`, restarts of the ODE with exact noise, as in `solve_with_restarts`.
            height, width (`int`, *optional*): size of the images, as in `ScoreSdePipeline`. A noise-conditional classifier
                sees images, or tiles, of the size that it was trained on alone.
            tile_size (`int` or `(height, width)`, *optional*): sample images larger than the network's size on overlapping
                tiles of this size, jointly (see `TiledScore`); an evaluation of all tiles counts as one in `nfe`.
            tile_overlap (`int`, *optional*): by how many pixels tiles overlap at least, by default half a tile.
            tile_batch_size (`int`): number of tiles that the network is called with at a time. Each tile shows the class.
            weak_unet (`torch.nn.Module`, *optional*): a network for the same images that was trained less or is smaller, by
                which this one is guided (autoguidance, Karras et al. 2024, see `AutoGuidance`); its score is
                that of the same class.
            weak_guidance_scale (`float`, *optional*): 0 samples the weak network, 1 is without guidance; 2 by default.
            weak_guidance_interval (`tuple`, *optional*): noise ratios sigma / alpha, (low, high), between which it acts.

        Returns:
            `images` and `nfe`: evaluations of the networks for each image, two where one is evaluated with and without the
            label; those of the classifier, one forward and backward pass a step, are not counted.

        Raises:
            TypeError, ValueError: for a label or name that is not known, a classifier for other images, or an argument out
                of its range, before any work is done; or for images that are not finite.
        """
        options = GenerationOptions.of(locals())
        check_integer("num_samples", num_samples)
        weak, shape = self.check_guidance(options)
        tile = (min(pair) for pair in zip(shape[1:], check_tiles(tile_size, tile_overlap) or shape[1:]))
        labels = self.check_labels(class_labels, guidance_scale, (shape[0], *tile)).repeat_interleave(num_samples)
        if self.classifier is None:
            check_weak_classes(weak, self.unet)
        check_interval("guidance_interval", guidance_interval)
        guided = self.guided_score_fn(labels.to(self._execution_device), guidance_scale, guidance_interval, weak)
        return self.generate(guided, len(labels), options, shape, weak, guidance_scale)

    # ------------------------------------------------------------------ classes

    @property
    def num_classes(self) -> int:
        """Number of classes of the classifier, or else of the network."""
        if self.classifier is not None:
            config = self.classifier.config
            return config.num_labels if classifier_kind(self.classifier) == "clean" else config.num_classes
        embeddings = getattr(self.unet.config, "num_class_embeds", None) or 0
        # Of a UNet2DModel trained with label dropout the last embedding means "no class".
        return len(self.config.id2label) if embeddings and self.config.id2label else embeddings

    @property
    def labels(self) -> dict[str, int]:
        """Numbers of the classes by name; empty where they have no names."""
        clean = self.classifier is not None and classifier_kind(self.classifier) == "clean"
        names = self.classifier.config.id2label if clean else self.config.id2label
        return {str(name): int(number) for number, name in (names or {}).items()}

    def get_label_ids(self, label: str | list[str]) -> list[int]:
        """Numbers of the classes with these names, as in `DiTPipeline`."""
        return Classes(self.labels, self.num_classes).ids([label] if isinstance(label, str) else list(label))

    def check_labels(self, class_labels: Any, guidance_scale: float, shape: tuple[int, ...] | None = None) -> Tensor:
        """The labels as int64, (B,); raises TypeError or ValueError where they, the scale or the modules do not fit.

        `shape` is that of the images, or of a tile, which a classifier must be made for.
        """
        check_number("guidance_scale", guidance_scale, 0, LARGEST_SIGMA)
        classes = Classes(self.labels, self.num_classes)
        classes.check_count()
        many = list(class_labels) if isinstance(class_labels, (list, tuple)) else [class_labels]
        if many and all(isinstance(label, str) for label in many):
            class_labels = classes.ids(many)
        try:
            labels = class_labels if isinstance(class_labels, Tensor) else torch.as_tensor(class_labels, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"class_labels must be integers or names, got {shown(class_labels)}") from error
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"class_labels must be integers or names, got {shown(class_labels)}")
        if labels.ndim > 1 or labels.numel() == 0:
            raise ValueError(f"class_labels must be one label or a list of them, got shape {tuple(labels.shape)}")
        classes.check(labels.tolist())
        if self.classifier is not None:
            self._check_classifier(shape or self.sample_shape)
        elif guidance_scale != 1 and not self._knows_no_class():
            raise ValueError(
                f"guidance_scale must be 1 for a network without a label for 'no class' (NCSNpp and DDPMpp have one), "
                f"got {guidance_scale}"
            )
        return labels.reshape(-1).long()

    def _check_classifier(self, shape: tuple[int, ...]) -> None:
        config, (channels, *size) = self.classifier.config, shape
        if classifier_kind(self.classifier) == "clean":
            given = ImagePreprocessing(self.image_processor)(torch.zeros(1, *shape, device="cpu")).shape[1]
            if given != getattr(config, "num_channels", given):
                raise ValueError(f"classifier must take images of {given} channels, got one of {config.num_channels}")
            return
        own = height_and_width(config.get("sample_size") or size)
        if (config.in_channels, *own) != (channels, *size):
            raise ValueError(
                f"classifier must be made for images of shape {shape} as the network is, "
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

    def guided_score_fn(
        self,
        class_labels: Tensor,
        scale: float,
        interval: tuple[float, float] | None = None,
        weak: WeakGuidance | None = None,
    ) -> ScoreFunction:
        """The score given the labels (B,) with guidance, a function of states (B, *D) and times () or (B,).

        The weak network's score is that of the same class: its score given the label, or with the classifier's gradient.
        """
        sde, data_range = self.scheduler.sde, (self.config.data_min, self.config.data_max)
        if self.classifier is None:
            no_class = torch.full_like(class_labels, self.num_classes)
            given, without = self.labelled_score_fn(class_labels), self.labelled_score_fn(no_class)
            free = ClassifierFreeGuidance(given, without, scale, interval, sde.noise_ratio)
            if weak is None:
                return free
            return weak.guide(free, self.labelled_score_fn(class_labels, weak_unet=weak.unet), sde)
        score_fn = self.score_fn()
        if classifier_kind(self.classifier) == "noise":
            log_prob = PerSample(noisy_log_prob(self.classifier, sde, data_range), class_labels=class_labels)
            # One gradient for both networks: it does not depend on them.
            if weak is not None:
                score_fn = weak.guide(score_fn, self.score_fn(weak_unet=weak.unet), sde)
            return ClassifierGuidance(score_fn, log_prob, scale, interval, sde.noise_ratio)
        log_prob = PerSample(
            clean_log_prob(self.classifier, self.image_processor, data_range), class_labels=class_labels
        )
        guided = DenoisedClassifierGuidance(score_fn, sde, log_prob, scale, interval)
        if weak is None:
            return guided
        weak_score_fn = self.score_fn(weak_unet=weak.unet)
        return weak.guide(guided, DenoisedClassifierGuidance(weak_score_fn, sde, log_prob, scale, interval), sde)
