"""Judging: how far a compressed sampler's samples are from the original's, and from real data."""
