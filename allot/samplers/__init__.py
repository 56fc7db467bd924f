"""Samplers: what is done to a network that runs in steps: calibrated, planned, searched, proven."""
