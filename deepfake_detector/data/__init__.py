"""Labelled sets of recordings: finding them, splitting them, augmenting them."""
