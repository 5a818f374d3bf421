"""The library behind the CIFAR-10 notebooks.

A star of small modules, each named by what it holds::

    from cifarlib import data, images, plotting

Importing the package imports none of them, so that it costs nothing: chapters and commands
load what they use.
"""

import os

# TensorFlow turns its faster kernels for CPUs on by itself where a processor has AVX-512, and
# leaves them off on others, on which convolutions take 1.4 times as long without them (an AMD
# EPYC with AVX2). It reads this when it is imported; who sets it, 0 or 1, decides.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
