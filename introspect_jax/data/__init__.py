"""Labelled images: where they come from, in which order, how they are varied."""
