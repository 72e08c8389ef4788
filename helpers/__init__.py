"""Helpers of the course "Network compression for FPGAs": one small module per technique.

`helpers.COURSE` identifies the package, since `helpers` is a common name for a folder.
"""

import sys
from importlib import metadata

COURSE = "network-compression-fpga"
__version__ = "0.1.0"


def versions() -> None:
    """Print one line with the versions that decide a lab's numbers."""
    packages = ("torch", "numpy", "matplotlib", "pandas")
    parts = [f"{name} {metadata.version(name)}" for name in packages]
    print(f"{COURSE} {__version__} | Python {sys.version.split()[0]} | " + " | ".join(parts))
