"""Generated images and their features on disk, a file per batch: complete or not there.

    output/settings.json                                  what decides the images and figures of the whole table
    output/samples/<row>/row.json                         what decides the images of one row
    output/samples/<row>/seed-0/000003.safetensors        images uint8 (B, C, H, W), features float32 (B, D)

Batches are a fixed partition of the image indices, whatever the number of processes: the images of two processes are those
of one, bit for bit, and an interrupted evaluation continues with the missing batches.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..durable_files import read_object, write_text, written_whole


logger = logging.getLogger(__name__)

DIGEST = "sha256"


def save_atomically(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file that appears with all its content or not at all, with the SHA-256 of its tensors."""
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as scratch:
        save_file(content, scratch, {**(metadata or {}), DIGEST: _digest(content, metadata or {})})


def is_whole(path: Path) -> bool:
    """Whether a file of `save_atomically` is there as it was written. A warning names one that is not."""
    if not path.is_file():
        if os.path.lexists(path):  # a folder, a pipe
            raise ValueError(f"{path} must be a file")
        return False
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), dict(file.metadata() or {})
            content = {name: file.get_tensor(name) for name in names}
        written = metadata.pop(DIGEST, None)  # None: of an earlier version
        whole = written is None or written == _digest(content, metadata)
    except (OSError, SafetensorError):
        whole = False
    if not whole:
        logger.warning("%s is damaged and is made again", path)
    return whole


def _digest(content: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(content):
        digest.update(f"{name} {content[name].dtype} {tuple(content[name].shape)}".encode())
        digest.update(content[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes `settings` to `path`, or holds them against those that are there.

    Raises:
        ValueError: the file there has other settings; every one that differs is named.
    """
    new = json.loads(json.dumps(settings))
    if not path.is_file():
        write_text(path, json.dumps(new, indent=1, sort_keys=True) + "\n")
        return
    old = read_object(path)
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        differences = ", ".join(f"{name}: {old.get(name)!r} instead of {new.get(name)!r}" for name in changed)
        raise ValueError(
            f"output must be a new folder or be continued with its own settings, got {path}: {differences}"
        )


@dataclass(frozen=True)
class Shards:
    """The files of one row and seed.

    Attributes:
        folder: where they lie.
        num_images: how many images there will be.
        batch_size: images per file (the last may hold fewer).
    """

    folder: Path
    num_images: int
    batch_size: int

    def batches(self) -> list[range]:
        """The image indices of every file."""
        starts = range(0, self.num_images, self.batch_size)
        return [range(start, min(start + self.batch_size, self.num_images)) for start in starts]

    def path(self, indices: range) -> Path:
        """The file of these indices."""
        return self.folder / f"{indices.start // self.batch_size:06d}.safetensors"

    def missing(self) -> list[range]:
        """The batches that are not there yet, or are damaged."""
        return [indices for indices in self.batches() if not is_whole(self.path(indices))]

    def write(self, indices: range, images: Tensor, features: Tensor, nfe: float, seconds: float) -> None:
        """Stores a batch; `nfe` and `seconds` are per image."""
        tensors = {"images": images.cpu(), "features": features}
        save_atomically(self.path(indices), tensors, {"nfe": repr(float(nfe)), "seconds": repr(float(seconds))})

    def read(self, name: str) -> Iterator[Tensor]:
        """ "images" or "features", a batch at a time, in the order of the indices."""
        for indices in self.batches():
            with safe_open(self.path(indices), framework="pt") as file:
                yield file.get_tensor(name)

    def features(self) -> Tensor:
        """All features (num_images, D)."""
        return torch.cat(list(self.read("features")))

    def first_images(self, count: int) -> Tensor:
        """The first images, uint8 (count, C, H, W)."""
        found: list[Tensor] = []
        for batch in self.read("images"):
            found.append(batch)
            if sum(map(len, found)) >= count:
                break
        return torch.cat(found)[:count]

    def per_image(self, name: str) -> float:
        """Mean of "nfe" or "seconds" over the images."""
        total = 0.0
        for indices in self.batches():
            with safe_open(self.path(indices), framework="pt") as file:
                total += float(file.metadata()[name]) * len(indices)
        return total / self.num_images
