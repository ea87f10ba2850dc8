"""The REST API of CSP accounts, key sets, external key stores, CloudKeys and operations, on the frame of vault.api."""
