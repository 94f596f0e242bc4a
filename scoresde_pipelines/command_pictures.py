"""How the commands bring pictures of any size and a model together, and what restores them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from .command_options import Work, set_sampler
from .samplers import NUM_RESTARTS, SAMPLERS


# What measured best for pictures with trained networks (docs/inverse_problems.md).
TRAINED_NETWORK = {"sampler": "scheduler", "solver_iterations": 1}


@dataclass(frozen=True)
class Geometry:
    """The size that pictures are made in; `None` for the model's own, or with tiles that of the picture.

    Args:
        height, width, tile_size, tile_overlap: as in the calls of the pipelines.
        fit: "crop" or "pad", for pictures of another size.

    Raises:
        typer.BadParameter: for options that contradict each other.
    """

    height: int | None = None
    width: int | None = None
    tile_size: int | None = None
    tile_overlap: int | None = None
    fit: str | None = None

    def __post_init__(self) -> None:
        if self.tile_overlap is not None and self.tile_overlap >= (self.tile_size or 0):
            size = "no tile_size" if self.tile_size is None else f"tile_size {self.tile_size}"
            raise typer.BadParameter(f"tile_overlap must be less than tile_size, got {self.tile_overlap} and {size}")
        if self.fit is not None and self.any_size:
            raise typer.BadParameter(
                "--fit must not be given with --tile-size alone: tiles cover a picture of any size; --height and --width "
                "name another one"
            )

    @property
    def any_size(self) -> bool:
        """Whether a picture keeps its size, whatever it is."""
        return self.tile_size is not None and self.height is None and self.width is None

    @property
    def size(self) -> dict[str, int | None]:
        """The arguments of every pipeline's call."""
        return {name: value for name, value in asdict(self).items() if name != "fit"}

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a call that fits pictures itself."""
        return {**self.size, "resize": self.fit}

    def open(self, path: Path, pipe: Any, scale: int = 1, *, tiles: bool = True) -> Any:
        """An upright PIL image, of the size of the result divided by `scale` unless it will be fitted or keeps its size.

        Args:
            tiles: whether the command has `--tile-size`, which the error then names.

        Raises:
            ValueError: it has another size.
        """
        from PIL import Image

        from .training.pil_pictures import upright

        with Image.open(path) as opened:
            picture = upright(opened.copy())
        if self.fit is not None or self.any_size:
            return picture
        _, height, width = pipe.shape_at(**self.size)
        if (picture.height, picture.width) != (height // scale, width // scale):
            ways = "--fit crop, --fit pad or --tile-size" if tiles else "--fit crop or --fit pad"
            raise ValueError(
                f"image must be {width // scale} x {height // scale} pixels, got {picture.width} x {picture.height} in "
                f"{path}: give {ways}"
            )
        return picture

    def tensor(self, path: Path, pipe: Any, *, tiles: bool = True) -> Any:
        """A picture as a float32 tensor (1, channels, height, width) in [0, 1], fitted."""
        from .image_fit import fit_images
        from .image_inputs import images_to_tensor

        pixels = images_to_tensor(self.open(path, pipe, tiles=tiles), pipe.sample_shape[0])
        _, height, width = pipe.shape_at(**self.size)
        return fit_images(pixels, (height, width), self.fit)


def restoration(
    steps: int | None, sampler: str, method: str | None, problem: Callable[[Any], dict[str, Any]]
) -> Callable[[Any, Work], Callable[[range, list[Any]], Any]]:
    """What `PictureRun` calls to restore one picture; `problem(pipe)` returns the arguments that state the problem.

    The samplers "default" and "ode" are the method's own and the ODE solver; any other follows the scheduler.

    Raises:
        typer.BadParameter: for a sampler that cannot be given a condition.
    """
    if NUM_RESTARTS in SAMPLERS[sampler]:
        raise typer.BadParameter(f"sampler must be one for a condition, such as 'ode' or 'restart', got {sampler!r}")

    def prepare(pipe: Any, work: Work) -> Callable[[range, list[Any]], Any]:
        ode = bool(set_sampler(pipe, sampler))
        options: dict[str, Any] = {"num_inference_steps": steps, "callback_on_step_end": work.step}
        if sampler != "default":
            options["sampler"] = "ode" if ode else "scheduler"
        options |= {} if method is None else {"method": method}
        keywords = problem(pipe) | options

        def call(indices: range, generators: list[Any]) -> Any:
            return pipe(**keywords, num_samples=len(indices), generator=generators)

        return call

    return prepare
