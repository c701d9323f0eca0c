"""Where the configuration groups and sweeps that ship with the package are."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def data_dir(name: str) -> Path:
    """Return `conf` or `sweeps`: from the wheel, else from the checkout."""
    # In a wheel the folder beside the package is site-packages, where `conf` may be someone else's.
    return next(path for path in (PACKAGE / "_data" / name, PACKAGE.parent / name) if path.is_dir())
