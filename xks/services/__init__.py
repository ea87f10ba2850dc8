"""What people and programs may do on the control side of the XKS endpoint."""
