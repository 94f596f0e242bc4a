"""What makes the networks fast on a CPU, behind one function: `make_convolution`.

The networks do not need this folder: `models/convolution.py` imports it in one line, and without that line and the folder
they compute the same with PyTorch's own convolutions.
"""

from .layer import make_convolution
from .packing import packed_filters


__all__ = ["make_convolution", "packed_filters"]
