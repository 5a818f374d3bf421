"""What every test needs, the chapters under nbval among them."""

import os
from pathlib import Path

# Progress bars would end up among the outputs that nbval compares.
os.environ["CIFARLIB_UNATTENDED"] = "1"

# Kernels start in notebooks/, where a relative path would mean something else.
source = os.environ.get("CIFARLIB_SOURCE")
if source and Path(source).exists():
    os.environ["CIFARLIB_SOURCE"] = str(Path(source).resolve())
