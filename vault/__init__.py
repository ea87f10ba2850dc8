"""Keystead: project package (settings, URLs, processes) and tenancy."""
