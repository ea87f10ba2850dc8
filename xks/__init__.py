"""The XKS endpoint: a data plane without Django, and the control side that feeds it."""

__version__ = "0.1.0"
