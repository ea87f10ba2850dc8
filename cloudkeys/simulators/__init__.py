"""Stand-ins for clouds, so that everything can be tried without an account."""
