"""Pages of the cloudkeys room; how they are made stands in vault/web/__init__.py."""
