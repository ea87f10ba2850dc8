"""REST API of the XKS endpoint's control side, on the frame of vault.api."""
