"""What every test needs, the chapters under nbval among them."""

import os

from cifarlib import settings

# Progress bars would end up among the outputs that nbval compares.
os.environ["CIFARLIB_UNATTENDED"] = "1"

# Kernels start in notebooks/, where a relative path would mean something else.
os.environ["CIFARLIB_CACHE"] = str(settings.cache_folder())
if source := settings.source():
    os.environ["CIFARLIB_SOURCE"] = source
