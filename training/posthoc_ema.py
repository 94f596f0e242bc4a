r"""Averages of the weights whose width is chosen after training (Karras et al. 2024, "Analyzing and Improving the
Training Dynamics of Diffusion Models", section 3).

A power-function average after n updates weights update k in proportion to about k^gamma. It is a moving average with
the decay `beta_n = (1 - 1/n)^(gamma + 1)` (eq. 3); written out, update k has the exact weight

    p(k; n, gamma) = (k^(gamma+1) - (k-1)^(gamma+1)) / n^(gamma+1),      1 <= k <= n.

Its relative width is `sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))`. Snapshots of two such averages at
several n span further profiles: an average of any width in between is the linear combination of snapshots whose
profile is nearest in least squares (section 3.2), here under the condition that its weights sum to one.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from ..schedulers.checks import check_integer, check_number
from .checkpoint_manifest import hash_file
from .durable_files import write_json, written_whole
from .ema import ExponentialMovingAverage
from .safe_state import check_finite_state
from .sharding import whole_network


FOLDER, INDEX = "ema_snapshots", "snapshots.json"


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma > 0 of the power function of this relative width, 0 < sigma_rel < 0.288.

    Raises:
        ValueError: `sigma_rel` is out of this range.
    """
    if not 0 < sigma_rel < 0.288:
        raise ValueError(f"sigma_rel must be between 0 and 0.288, got {sigma_rel}")
    inverse = sigma_rel**-2
    # (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = sigma_rel^2, multiplied out.
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def profile_weights(gamma: float, updates: int) -> np.ndarray:
    """p(k; n, gamma) for k = 1 ... n = `updates`, float64, shape (n,); they sum to one."""
    k = np.arange(1, updates + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):  # k = 1: log(0), and expm1 of minus infinity is -1
        return -np.expm1((gamma + 1) * np.log1p(-1 / k)) * (k / updates) ** (gamma + 1)


@dataclass(frozen=True)
class Snapshot:
    """One saved average.

    Attributes:
        file: name inside of the folder.
        sigma_rel: relative width.
        updates: number n of updates it averages.
        step: the run's step, from which it is named.
        sha256: of the file; None in runs of earlier versions.
    """

    file: str
    sigma_rel: float
    updates: int
    step: int
    sha256: str | None = None

    def check(self) -> None:
        """Raises ValueError or TypeError where a field cannot be that of a snapshot."""
        if not isinstance(self.file, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", self.file, re.ASCII):
            raise ValueError(f"file must be a name of this folder, got {self.file!r}")
        check_number("sigma_rel", self.sigma_rel, 0, 0.288, ends="()")
        check_integer("updates", self.updates, 1)
        check_integer("step", self.step, 0)


@dataclass(frozen=True)
class Combination:
    """The combination of snapshots that is nearest to an average of another width.

    Attributes:
        weights: one per snapshot; they sum to one.
        error: distance of the profiles relative to the target's norm; 0 where the target is in the span.
    """

    weights: np.ndarray
    error: float


def fit_profile(snapshots: Sequence[tuple[float, int]], sigma_rel: float, updates: int) -> Combination:
    """Least-squares weights of snapshots for the average of width `sigma_rel` after `updates` updates.

    Args:
        snapshots: (sigma_rel, updates) of each.
    """
    averages = [*snapshots, (sigma_rel, updates)]
    largest, gammas = max(n for _, n in averages), {width: gamma_of(width) for width, _ in averages}
    shapes = {width: profile_weights(gamma, largest) for width, gamma in gammas.items()}
    sums = {(a, b): np.cumsum(shapes[a] * shapes[b]) for a in shapes for b in shapes}

    def product(first: tuple[float, int], second: tuple[float, int]) -> float:
        (a, n), (b, m) = first, second
        scale = (largest / n) ** (gammas[a] + 1) * (largest / m) ** (gammas[b] + 1)
        return float(sums[a, b][min(n, m) - 1]) * scale

    gram = np.array([[product(a, b) for b in averages] for a in averages])
    count = len(snapshots)
    # The stationary point of |target - combination|^2 under sum(weights) = 1, with its multiplier.
    system = np.block([[gram[:count, :count], np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    weights = np.linalg.lstsq(system, np.append(gram[:count, count], 1.0), rcond=None)[0][:count]
    signed = np.append(weights, -1.0)
    return Combination(weights, math.sqrt(max(0.0, float(signed @ gram @ signed)) / gram[count, count]))


class PowerAverage(ExponentialMovingAverage[Any]):
    """A moving average of `network` with the decay of eq. 3."""

    def __init__(self, network: nn.Module, sigma_rel: float) -> None:
        super().__init__(network)
        self.sigma_rel, self.gamma = sigma_rel, gamma_of(sigma_rel)

    def decay(self, num_updates: int) -> float:
        """beta_n of update n = `num_updates` (the first is 1)."""
        return (1 - 1 / num_updates) ** (self.gamma + 1)


class PowerAverages:
    """Power-function averages of several widths of one network; none is fine."""

    def __init__(self, network: nn.Module, widths: Sequence[float]) -> None:
        self.models = [PowerAverage(network, width) for width in widths]

    def update(self, network: nn.Module) -> None:
        """Moves every average towards `network`."""
        for average in self.models:
            average.update(network)

    def by_name(self) -> dict[str, ExponentialMovingAverage[Any]]:
        """The averages under the names that they have in a checkpoint."""
        return {f"power_{average.sigma_rel:g}": average for average in self.models}


class SnapshotFolder:
    """`ema_snapshots/` of a run: the newest snapshots of its averages, evenly spaced, and their index.

    Args:
        output_dir: of the run.
        averages: what is saved.
        max_steps: length of the run; `limit` snapshots of each average are spread over it.
        limit: snapshots of each average that are kept. The oldest go first: a profile weights late updates most.
    """

    def __init__(self, output_dir: str | Path, averages: PowerAverages, max_steps: int, limit: int) -> None:
        self.folder, self.averages, self.limit = Path(output_dir) / FOLDER, averages, limit
        self.interval = math.ceil(max_steps / limit)

    def after_update(self, step: int, is_main_process: bool) -> None:
        """Saves the snapshots of `step` if it is their turn."""
        if step % self.interval == 0:
            self.save(step, is_main_process)

    def save(self, step: int, is_main_process: bool) -> None:
        """Saves every average at `step`; the main process writes."""
        networks = [whole_network(average.model) for average in self.averages.models]
        if not networks or not is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = [snapshot for snapshot in read_snapshots(self.folder) if snapshot.step < step]
        for average, network in zip(self.averages.models, networks):
            name = f"{average.sigma_rel:g}-{step:08d}.safetensors"
            with written_whole(self.folder / name) as scratch:
                save_model(network, str(scratch))
            digest = hash_file(self.folder / name)
            kept.append(Snapshot(name, average.sigma_rel, average.num_updates, step, digest))
        self._keep([snapshot for snapshot in kept if snapshot.step in self._newest(kept)])

    def _newest(self, snapshots: list[Snapshot]) -> set[int]:
        return set(sorted({snapshot.step for snapshot in snapshots})[-self.limit :])

    def drop_after(self, step: int, is_main_process: bool) -> None:
        """Deletes snapshots of steps that a resumed run will repeat."""
        if is_main_process and self.folder.is_dir():
            self._keep([snapshot for snapshot in read_snapshots(self.folder) if snapshot.step <= step])

    def _keep(self, snapshots: list[Snapshot]) -> None:
        """Writes the index of these, then deletes all others."""
        write_json(self.folder / INDEX, [asdict(snapshot) for snapshot in snapshots])
        names = {snapshot.file for snapshot in snapshots}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in names:
                path.unlink()


def read_snapshots(folder: str | Path) -> list[Snapshot]:
    """The snapshots in `folder`, in the order of its index; empty where there is none.

    Raises:
        ValueError: the index is damaged, or names something else than files of this folder.
    """
    path = Path(folder) / INDEX
    if not os.path.lexists(path):
        return []
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        snapshots = [Snapshot(**entry) for entry in json.loads(path.read_text("utf-8"))]
        for snapshot in snapshots:
            snapshot.check()
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): the snapshots of this run cannot be used; a run goes on without them where "
            f"{folder} is deleted"
        ) from error
    return snapshots


def _read_snapshot(folder: Path, snapshot: Snapshot) -> dict[str, Tensor]:
    """The tensors of a snapshot, if they are those that were saved."""
    path = folder / snapshot.file
    try:
        if path.is_symlink() or not path.is_file():  # reading from a pipe would wait for ever
            raise ValueError("there is no such file")
        if snapshot.sha256 is not None and hash_file(path) != snapshot.sha256:
            raise ValueError("its SHA-256 is not the one that was written")
        tensors = load_file(path)
        check_finite_state(tensors)
    except (OSError, ValueError, ArithmeticError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}; without its entry in {INDEX} the other snapshots "
                         "can be combined") from error  # fmt: skip
    return tensors


def combine_snapshots(folder: str | Path, sigma_rel: float) -> tuple[dict[str, Tensor], Combination]:
    """The weights of the average of width `sigma_rel` at the newest snapshot, from the snapshots in `folder`.

    Returns:
        The tensors by name, in their stored dtype, and how they were combined.

    Raises:
        ValueError: there are no snapshots, one is missing, damaged or of another network, or `sigma_rel` is out of
            range.
    """
    snapshots = read_snapshots(folder)
    if not snapshots:
        raise ValueError(f"folder must hold snapshots of a run with --ema_widths, got {folder}")
    newest = max(snapshots, key=lambda snapshot: snapshot.updates)
    fit = fit_profile([(s.sigma_rel, s.updates) for s in snapshots], sigma_rel, newest.updates)
    result = _read_snapshot(Path(folder), newest)
    floating = [name for name, value in result.items() if value.is_floating_point()]
    sums = {name: torch.zeros_like(result[name], dtype=torch.float64) for name in floating}
    for snapshot, weight in zip(snapshots, fit.weights):
        tensors = _read_snapshot(Path(folder), snapshot)
        _check_same_network(snapshot, tensors, result)
        for name in floating:
            sums[name].add_(tensors[name].double(), alpha=float(weight))
    return {**result, **{name: value.to(result[name].dtype) for name, value in sums.items()}}, fit


def _check_same_network(snapshot: Snapshot, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    shapes, others = ({name: t.shape for name, t in part.items()} for part in (expected, tensors))
    if shapes != others:
        differ = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
        raise ValueError(f"{snapshot.file} must be of the same network as the newest snapshot, got other {differ[:3]}")
