"""Noise: what changes where training and deployment differ (Wang et al. 2023, SysNoise)."""
