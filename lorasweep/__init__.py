"""Which LoRA configuration should I use, on my data, on my hardware, and how sure can I be?"""

__version__ = "0.1.0"
