"""The embedded demo: a small base model, its data, and the script that makes both.

A first leaderboard needs neither a GPU nor a network, and tests need no download.
"""

from pathlib import Path

DEMO_DIR = Path(__file__).parent
