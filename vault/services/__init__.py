"""What can be done in a vault: plain functions, called by REST, HTML and CLI alike. Each takes the Actor first."""
