"""Checkpoint folders: finding them, reading them, naming what is in them, writing them."""
