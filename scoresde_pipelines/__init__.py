"""Score-based generative modelling through SDEs (Song et al., ICLR 2021) for diffusers users."""

from pathlib import Path as _Path


if not (_Path(__file__).parent / "schedulers").is_dir():
    # A bare checkout: schedulers/, models/ and training/ lie beside this folder instead of inside it.
    __path__.append(str(_Path(__file__).parent.parent))

__version__ = "0.1.0"
