"""Sampling: networks that run in steps, from noise to a sample, and what a step may leave out."""
