"""The frozen base: its description, its weights, and fast layers for it."""
