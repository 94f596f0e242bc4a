"""Makes diffusers save and load this package's classes under one stable name, `["scoresde_pipelines", "Class"]`.

Without it `save_pretrained` writes a foreign class as `[module path, class]`, which loads from a folder and never from
the Hub (diffusers#5728, #5474). `LOADABLE_CLASSES` is semi-private: a test fails when it changes. `schedulers` calls it when
it is imported, and every network and pipeline of the package imports `schedulers`.
"""

from diffusers.pipelines import pipeline_loading_utils


def register_with_diffusers(package: str) -> None:
    """Registers with diffusers that `package` holds models and schedulers with the usual two methods."""
    methods = ["save_pretrained", "from_pretrained"]
    pipeline_loading_utils.LOADABLE_CLASSES.setdefault(package, {"ModelMixin": methods, "SchedulerMixin": methods})
