"""What should the outputs be? Pure functions of arrays, per example, float32 inside."""
