"""Any vision model of `transformers` as a feature extractor: DINOv2, CLIP, ViT, ResNet, ..."""

import os
from typing import Any

import torch
from torch import Tensor

from ...models.image_preprocessing import RESAMPLING
from .features import FeatureExtractor, resize


class TransformersFeatures(FeatureExtractor):
    """Features of `AutoModel.from_pretrained(name)` with the normalisation of its `AutoImageProcessor`.

    The whole image is resized to the network's input size after its processor's crop (nothing is cut off), in float
    and antialiased. The features are, in this order: the projected image embedding of a model that has one (CLIP); the mean
    over the pixels of a convolutional network (ResNet); the class token (ViT, DINOv2), or else the mean over all tokens.

    Args:
        name: a folder or a Hub id; the model and its `preprocessor_config.json`.

    Raises:
        ImportError: `transformers` is not installed.
        OSError, ValueError: there is no such model, or it is not one of images.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise ImportError(f"features {name!r} need pip install transformers") from error
        processor = AutoImageProcessor.from_pretrained(name)
        self.model = AutoModel.from_pretrained(name).float().eval().requires_grad_(False)
        self.name = os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name
        self.size = _input_size(processor)
        self.mode = RESAMPLING.get(int(getattr(processor, "resample", None) or 2), "bilinear")
        self.scale = float(getattr(processor, "rescale_factor", None) or 1 / 255)
        self.mean, self.std = tuple(processor.image_mean), tuple(processor.image_std)
        self.has_class_token = any(key.endswith(("cls_token", "class_embedding")) for key in self.model.state_dict())

    def extra_repr(self) -> str:
        """The preprocessing, as part of the fingerprint."""
        return f"size={self.size}, mode={self.mode}, scale={self.scale}, mean={self.mean}, std={self.std}"

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> the network's float input (B, 3, *size)."""
        mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (resize(images, self.size, self.mode) * self.scale - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, D)."""
        pixels = self.preprocess(images)
        if hasattr(self.model, "get_image_features"):
            embedding: Any = self.model.get_image_features(pixel_values=pixels)
            return embedding if isinstance(embedding, Tensor) else embedding.pooler_output
        hidden = self.model(pixel_values=pixels).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.has_class_token else hidden.mean(dim=1)


def _input_size(processor: Any) -> tuple[int, int]:
    """Height and width of the network's input."""
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    for size in (crop, processor.size):
        if size is None:
            continue
        if isinstance(size, int):
            return size, size
        height, edge = size.get("height"), size.get("shortest_edge")
        if height:
            return int(height), int(size.get("width"))
        if edge:
            return int(edge), int(edge)
    raise ValueError(f"the image processor must name a size, got {processor.size}")
