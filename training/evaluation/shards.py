"""Generated images and their features on disk, a file per batch: complete or not there.

    output/settings.json                                  what decides the images and figures of the whole table
    output/samples/<row>/row.json                         what decides the images of one row
    output/samples/<row>/seed-0/000003.safetensors        images uint8 (B, C, H, W), features float32 (B, D)

Batches are a fixed partition of the image indices, whatever the number of processes: the images of two processes are those
of one, bit for bit, and an interrupted evaluation continues with the missing batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_atomically(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file that appears with all its content or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, dict(metadata or {}))
    os.replace(scratch, path)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file that appears with all its content or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text, "utf-8")
    os.replace(scratch, path)


def keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes `settings` to `path`, or holds them against those that are there.

    Raises:
        ValueError: the file there has other settings; every one that differs is named.
    """
    new = json.loads(json.dumps(settings))
    if not path.is_file():
        write_text_atomically(path, json.dumps(new, indent=1, sort_keys=True) + "\n")
        return
    old = json.loads(path.read_text("utf-8"))
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
        """The batches that are not there yet."""
        return [indices for indices in self.batches() if not self.path(indices).is_file()]

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
