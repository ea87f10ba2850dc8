"""What people and workers may ask of CSP accounts, key sets, stores and CloudKeys. HTML, REST and CLI all call these."""
