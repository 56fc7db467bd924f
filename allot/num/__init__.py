"""Pure functions on tensors and the parts that carry their settings; no nn.Module in here."""
