"""BibTeX entries of what a pipeline or scheduler uses."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .citation_entries import CITED, METHODS, PAPERS
from .registration import PACKAGE
from .schedulers import to_sde_scheduler
from .schedulers.checks import check_choice


RESTORATION = ("moment_matching", "pseudo_inverse", "twisted_smc", "replacement")
RESTORING = tuple(
    f"ScoreSde{name}Pipeline" for name in ("Inpaint", "Colorization", "SuperResolution", "InverseProblem")
)


def cite(pipeline_or_scheduler: Any, *methods: str) -> str:
    """BibTeX of this package, of the paper, and of exactly the SDE, sampler, network and methods in use.

    Args:
        pipeline_or_scheduler: a pipeline with a `scheduler`, or a scheduler; of this package or a stock one that
            `to_sde_scheduler` converts. SDEs, predictors and correctors of your own are left out.
        methods: what was chosen in the pipeline's call: "ode" (`ode_tolerance`, instead of the predictor and corrector),
            "adaptive_restart" (the same with `num_restarts`), "moment_matching", "pseudo_inverse", "twisted_smc",
            "replacement", "classifier_guidance", "classifier_free_guidance", "autoguidance" (`weak_unet`),
            "guidance_interval", "tiles", "likelihood". Defaults follow from the pipeline: moment matching for inpainting,
            colorization, super-resolution and inverse problems, the guidance of a class-conditional pipeline, the trace
            estimator of a likelihood.

    Returns:
        The entries, separated by an empty line. This package and the paper (Song et al. 2021) come first.

    Raises:
        TypeError: for what is neither a pipeline nor a scheduler.
        ValueError: for an unknown method, or a stock scheduler that describes no SDE of this package.

    Example:

    ```python
    >>> from scoresde_pipelines import VPSDEScheduler, cite
    >>> print(cite(VPSDEScheduler(predictor="exponential")))
    ```
    """
    for method in methods:
        check_choice("methods", method, METHODS)
    scheduler = getattr(pipeline_or_scheduler, "scheduler", pipeline_or_scheduler)
    if not isinstance(scheduler, SchedulerMixin):
        raise TypeError(
            f"pipeline_or_scheduler must be a pipeline or a scheduler, got {type(pipeline_or_scheduler).__name__}"
        )
    names = [*_of_scheduler(to_sde_scheduler(scheduler), bool({"ode", "adaptive_restart"} & {*methods}))]
    if scheduler is not pipeline_or_scheduler:
        names += _of_pipeline(pipeline_or_scheduler, methods)
    keys = ["song2021scoresde", *(key for name in [*names, *methods] for key in CITED.get(name, ()))]
    return "\n\n".join([_software(), *(_entry(key) for key in dict.fromkeys(keys))])


def _of_scheduler(scheduler: Any, ode: bool) -> Iterable[str]:
    config = scheduler.config
    # A class of the user's own has the SDE of its base only where it keeps that base's `make_sde`.
    yield next(cls.__name__ for cls in type(scheduler).__mro__ if "make_sde" in vars(cls))
    yield config["prediction_type"]
    if not ode:
        yield from (name for name in (config["predictor"], config["corrector"]) if isinstance(name, str))
        yield config["timestep_spacing"]


def _of_pipeline(pipeline: Any, methods: tuple[str, ...]) -> Iterable[str]:
    yield type(getattr(pipeline, "unet", None)).__name__
    name = type(pipeline).__name__
    if name in RESTORING and not set(methods) & set(RESTORATION):
        yield "moment_matching"
    if name == "ScoreSdeLikelihoodPipeline":
        yield "likelihood"
    if name == "ScoreSdeClassConditionalPipeline":
        yield "classifier_free_guidance" if pipeline.classifier is None else "classifier_guidance"


def _software() -> str:
    version = import_module(PACKAGE).__version__
    return (
        "@software{scoresde_pipelines,\n"
        "  author = {{The scoresde_pipelines developers}},\n"
        "  title = {scoresde\\_pipelines},\n"
        f"  version = {{{version}}}\n"
        "}"
    )


def _entry(key: str) -> str:
    author, title, where, year = PAPERS[key]
    if where.startswith("arXiv:"):
        kind, place = "misc", f"eprint = {{{where.removeprefix('arXiv:')}}},\n  archivePrefix = {{arXiv}}"
    elif where.endswith(")"):
        journal, volume = where.rsplit(" ", 1)
        number = volume.rstrip(")").split("(")
        kind, place = "article", f"journal = {{{journal}}},\n  volume = {{{number[0]}}},\n  number = {{{number[1]}}}"
    else:
        kind, place = "inproceedings", f"booktitle = {{{where}}}"
    return f"@{kind}{{{key},\n  author = {{{author}}},\n  title = {{{title}}},\n  {place},\n  year = {{{year}}}\n}}"
