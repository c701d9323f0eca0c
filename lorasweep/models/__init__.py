"""The frozen base: described from its configuration, loaded, and made fast."""
