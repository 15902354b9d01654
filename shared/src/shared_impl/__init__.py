"""What the impl packages share; nothing here is about any one paper."""

from importlib.metadata import version

__version__ = version("shared-impl")
