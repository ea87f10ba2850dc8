"""CSP accounts, key sets, CloudKeys and what provisions them in the clouds."""
