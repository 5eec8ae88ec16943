"""Why did the network answer so? Pure functions of (logits_fn, inputs)."""
