"""One jitted step, one loop, whatever the method."""
