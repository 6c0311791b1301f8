"""``python -m reverie``."""

from reverie.cli import entry

if __name__ == "__main__":
    entry()
