"""The search heart against the known truth: spaces that were enumerated completely."""
