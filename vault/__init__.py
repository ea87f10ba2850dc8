"""Keystead: project package (settings, URLs, processes) and tenancy."""

__version__ = "0.1.0"
