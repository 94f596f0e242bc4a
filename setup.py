"""Packaging. Only ``scoresde_pipelines`` is installed: the sibling folders become its subpackages."""

from setuptools import setup


SIBLINGS = ("schedulers", "models", "training")

setup(
    name="scoresde_pipelines",
    version="0.1.0",
    packages=["scoresde_pipelines", *(f"scoresde_pipelines.{name}" for name in SIBLINGS)],
    package_dir={f"scoresde_pipelines.{name}": name for name in SIBLINGS},
)
