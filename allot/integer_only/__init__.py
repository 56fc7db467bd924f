"""Integer only: a quantized network in which every operation is one on whole numbers."""
