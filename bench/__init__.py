"""Throughput of vaecore against peers and against the limit of the machine."""
