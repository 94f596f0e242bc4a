"""Features of real images, computed once: a safetensors file named by the hash of the pixels and of the extractor."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from .features import FeatureExtractor, FunctionFeatures, extract
from .shards import is_whole, save_atomically


class Images(Protocol):
    """Images by index: a list of indices gives uint8 (len, C, H, W). `training.data.ImageStore` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Sequence[int]) -> Tensor: ...


@dataclass(frozen=True)
class ImageSelection:
    """Some images of a store, read a batch at a time, so that memory stays flat.

    Attributes:
        images: the store.
        indices: which of its images, in which order.
        label: for messages and progress bars.
    """

    images: Images
    indices: Sequence[int]
    label: str = "real images"

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """uint8 batches (B, C, H, W)."""
        for start in range(0, len(self), batch_size):
            yield self.images[list(self.indices[start : start + batch_size])]

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of all pixels in their order."""
        digest = hashlib.sha256()
        for batch in self.batches(256):
            digest.update(str(tuple(batch.shape[1:])).encode())
            digest.update(batch.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def default_cache() -> Path:
    """`$SCORESDE_CACHE/features`, by default below `~/.cache/scoresde_pipelines`."""
    return Path(os.environ.get("SCORESDE_CACHE", Path.home() / ".cache" / "scoresde_pipelines")) / "features"


def real_features(
    extractor: FeatureExtractor,
    selection: ImageSelection,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """Features (N, D) of a selection, in float32: from the cache, or computed and cached.

    Args:
        extractor: features of a `FunctionFeatures` are not cached.
        cache_dir: None for `default_cache()`.
    """
    known = not isinstance(extractor, FunctionFeatures)
    path = None
    if known:
        name = f"{selection.fingerprint()}-{extractor.fingerprint()}.safetensors"
        path = Path(cache_dir or default_cache()) / name
        if is_whole(path):
            return load_file(path)["features"]
    bar = tqdm(total=len(selection), desc=f"features of {selection.label}", unit="image", disable=not progress)
    parts = []
    with bar:
        for batch in selection.batches(batch_size):
            parts.append(extract(extractor, batch))
            bar.update(len(batch))
    features = torch.cat(parts)
    if path is not None:
        save_atomically(path, {"features": features})
    return features
