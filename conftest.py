"""What every test needs, the chapters under nbval among them."""

import os

# Progress bars would end up among the outputs that nbval compares.
os.environ["CIFARLIB_UNATTENDED"] = "1"
