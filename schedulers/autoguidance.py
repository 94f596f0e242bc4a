r"""Autoguidance: a network guided by a weaker version of itself (Karras et al. 2024, "Guiding a Diffusion Model with a Bad
Version of Itself").

A network that was trained less, or is smaller, makes the same errors, only larger. With w > 1,

    score(x, t) = s_weak(x, t) + w (s(x, t) - s_weak(x, t))

extrapolates away from them. Unlike classifier-free guidance this needs no class, and does not favour images typical of one.
"""

from .checks import check_function
from .guidance_scale import Extrapolation, GuidanceScale, NoiseRatio
from .score_function import ScoreFunction


class AutoGuidance(Extrapolation):
    """The score `weak_score_fn + scale * (score_fn - weak_score_fn)`.

    Args:
        score_fn: the score, `(x, t) -> (B, *D)`.
        weak_score_fn: that of a network for the same data which was trained less or is smaller; given a class, of the same
            class.
        scale: 0 is the weak score, 1 the score without guidance; Karras et al. use about 2.
        interval, noise_ratio: see `GuidanceScale`; outside of the interval the scale is 1.

    Each network is evaluated once; one alone where the scale is 0 or 1.

    Raises:
        TypeError, ValueError: for an argument that is no function or out of its range.

    Example:

    ```python
    guided = AutoGuidance(scheduler.score_fn(unet), scheduler.score_fn(weak_unet), scale=2.0)
    solution = solve_probability_flow(guided, scheduler.sde, noise, 1.0, 1e-5)
    ```
    """

    functions = ("score_fn", "weak_score_fn")

    def __init__(
        self,
        score_fn: ScoreFunction,
        weak_score_fn: ScoreFunction,
        scale: float,
        interval: tuple[float, float] | None = None,
        noise_ratio: NoiseRatio | None = None,
    ) -> None:
        check_function("score_fn", score_fn, 2)
        check_function("weak_score_fn", weak_score_fn, 2)
        self.score_fn, self.weak_score_fn = score_fn, weak_score_fn
        self.scale = GuidanceScale(scale, 1.0, interval, noise_ratio)
