"""An embedded world to sweep on: a small base model, its data, and the script that makes both.

A newcomer needs neither a GPU nor a network to see a first leaderboard; a test needs no download.
"""

from pathlib import Path

DEMO_DIR = Path(__file__).parent
