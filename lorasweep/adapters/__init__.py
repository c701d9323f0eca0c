"""K adapters on one frozen base, and one training step for all of them."""
