"""The XKS endpoint: a data plane without Django, and the control side that feeds it."""
