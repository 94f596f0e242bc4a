"""How the commands bring pictures of any size and a model together, and what restores them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from .command_run import Work, set_sampler
from .samplers import NUM_RESTARTS, SAMPLERS


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

    def open(self, path: Path, pipe: Any, scale: int = 1, *, tiles: bool = True, whole: bool = False) -> Any:
        """An upright PIL image, of the size of the result divided by `scale` unless it will be fitted or keeps its size.

        What fitting changes is said in a warning.

        Args:
            tiles: whether the command has `--tile-size`, which the messages then name.
            whole: the result is all of the picture in its own size, whatever the model sees of it.

        Raises:
            ValueError: it has another size.
        """
        from PIL import Image

        from .training.pil_pictures import upright

        with Image.open(path) as opened:
            picture = upright(opened.copy())
            _say_what_is_left_out(path, opened)
        if self.any_size:
            return picture
        _, height, width = pipe.shape_at(**self.size)
        size, sides = (height // scale, width // scale), (picture.height, picture.width)
        self._check_sides(path, sides, size, tiles)
        if self.fit is not None and not whole:
            changes = _changes(sides, size, self.fit)
            hint = ": --tile-size takes it as it is" if tiles else ""
            if changes:
                typer.secho(f"warning: {path}, {_text(sides)} pixels, {changes}{hint}", fg="yellow", err=True)
        return picture

    def check(self, model: str, *paths: Path, scale: int = 1, tiles: bool = True) -> None:
        """Refuses pictures of another size before the model is loaded, where files of this machine say what its size is.

        Args:
            scale, tiles: as in `open`.

        Raises:
            ValueError: as in `open`, or for a scale that does not divide the model's size.
        """
        from PIL import Image

        from .training.pil_pictures import upright

        shape = model_shape(model)
        if shape is None or self.any_size:
            return
        size = (self.height or shape[1], self.width or shape[2])
        if size[0] % scale or size[1] % scale:
            raise ValueError(f"scale must divide the network's height and width {size}, got {scale}")
        for path in paths:
            with Image.open(path) as opened:
                width, height = upright(opened).size
            self._check_sides(path, (height, width), (size[0] // scale, size[1] // scale), tiles)

    def _check_sides(self, path: Path, sides: tuple[int, int], size: tuple[int, int], tiles: bool) -> None:
        if self.fit is None and sides != size:
            ways = "--fit pad (all of it, shrunk where it is larger) or --fit crop (its middle)"
            ways = f"--tile-size (all of it in its own size), {ways}" if tiles else ways
            raise ValueError(f"image must be {_text(size)} pixels, got {_text(sides)} in {path}: give {ways}")

    def tensor(self, path: Path, pipe: Any, *, tiles: bool = True) -> Any:
        """A picture as a float32 tensor (1, channels, height, width) in [0, 1], not yet fitted."""
        from .image_inputs import images_to_tensor

        return images_to_tensor(self.open(path, pipe, tiles=tiles), pipe.sample_shape[0])

    def fitted_size(self, pipe: Any) -> tuple[int, int] | None:
        """Height and width that pictures are fitted to; None where they are left as they are."""
        return None if self.fit is None else pipe.shape_at(**self.size)[1:]


def model_shape(model: str) -> tuple[int, int, int] | None:
    """Channels, height and width of a model's images, where files of this machine say so."""
    from .model_facts import folder_shape
    from .training.model_names import locate

    place = locate(model)
    return folder_shape(place) if isinstance(place, Path) else None


def _say_what_is_left_out(path: Path, opened: Any) -> None:
    """Warns of what a result cannot hold: further frames of a picture, and its transparency."""
    from .training.pil_pictures import has_transparency

    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        typer.secho(f"warning: {path} has {frames} frames: the first one is taken", fg="yellow", err=True)
        opened.seek(0)
    if has_transparency(opened) and opened.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        typer.secho(f"warning: {path} is transparent in parts: they become white", fg="yellow", err=True)


def _text(sides: tuple[int, int]) -> str:
    return f"{sides[1]} x {sides[0]}"


def _changes(sides: tuple[int, int], size: tuple[int, int], fit: str) -> str:
    """What `--fit` does to a picture, "is resized to 4 x 3 and cut to 3 x 3"; empty where that is nothing."""
    from .training.image_format import fitted_sides

    fitted = fitted_sides(sides, size, fit)
    left = (min(fitted[0], size[0]), min(fitted[1], size[1]))
    done = [f"resized to {_text(fitted)}"] * (fitted != sides) + [f"cut to {_text(left)}"] * (left != fitted)
    return f"is {' and '.join(done)}" if done else ""


def restoration(
    steps: int | None, sampler: str, method: str | None, problem: Callable[[Any], dict[str, Any]]
) -> Callable[[Any, Work], Callable[[range, list[Any]], Any]]:
    """What `PictureRun` calls to restore one picture; `problem(pipe)` returns the arguments that state the problem.

    Under "place" it may return rows and columns of the results: the pictures are cut to them.
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
        rows, columns = keywords.pop("place", (None, None))

        def call(indices: range, generators: list[Any]) -> Any:
            output = pipe(**keywords, num_samples=len(indices), generator=generators)
            if rows is not None:
                box = (columns.start, rows.start, columns.stop, rows.stop)
                output.images = [picture.crop(box) for picture in output.images]
            return output

        return call

    return prepare
