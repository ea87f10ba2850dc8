"""Pages of the xks room, and those that show all rooms together; how they are made stands in vault/web/__init__.py."""
