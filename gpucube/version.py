"""The version of gpucube: its only home."""

__version__ = "0.1.0.dev0"
