"""Pictures of samples, of sampling and of the mathematics.

Grids and GIFs need nothing more than the package. Figures are `matplotlib.figure.Figure`s and need the extra `viz`; the
import waits until one is drawn. `python -m scoresde_pipelines.viz --help` lists the same as commands.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .figures import plot_marginals, plot_quality, plot_score_field
    from .grids import class_grid, save_gif
    from .trajectories import Trajectory, TrajectoryRecorder, record_trajectory, sample_trajectory


__all__ = [
    "Trajectory",
    "TrajectoryRecorder",
    "class_grid",
    "plot_marginals",
    "plot_quality",
    "plot_score_field",
    "record_trajectory",
    "sample_trajectory",
    "save_gif",
]


def __getattr__(name: str) -> object:
    # Imported with the first name that is asked for: until then, Ctrl-C ends the command at once.
    files = (_import_module(f".{file}", __name__) for file in ("figures", "grids", "trajectories") if name in __all__)
    for file in files:
        if name in file.__all__:
            return getattr(file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
