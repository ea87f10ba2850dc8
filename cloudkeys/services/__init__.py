"""What may be asked of CSP accounts, key sets, stores and CloudKeys. HTML, REST and CLI all call these."""
