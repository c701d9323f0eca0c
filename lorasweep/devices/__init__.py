"""The available hardware, and its free memory."""
