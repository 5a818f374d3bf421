"""The library behind the CIFAR-10 notebooks.

A star of small modules, each named by what it holds::

    from cifarlib import data, images, plotting

Importing the package imports none of them, so that it costs nothing: chapters and commands
load what they use.
"""

__version__ = "0.1.0"
