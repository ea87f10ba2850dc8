"""More than one node under load while things break: `make test-cluster`, which writes docs/reliability.md.

Two XKS nodes (an agent and two workers each) and two pairs of web, worker and beat share one PostgreSQL and one Redis;
HAProxy stands before both. Everything listens on loopback. A client asks 1,000 times a second and keeps what it was told;
afterwards that is held against the journals, the database and what the simulated AWS has.
"""
