"""Pictures of samples, of sampling and of the mathematics.

Grids and GIFs need nothing more than the package. Figures are `matplotlib.figure.Figure`s and need the extra `viz`; the
import waits until one is drawn. `python -m scoresde_pipelines.viz --help` lists the same as commands.
"""

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
