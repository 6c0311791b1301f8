"""Where rehearsal rows come from, and how they are mixed with new ones."""

from reverie.replay.buffer import BUFFERS, Buffer
from reverie.replay.generative import Labelling, Scholar
from reverie.replay.mixing import importance, mix, replay_rows

__all__ = ["BUFFERS", "Buffer", "Labelling", "Scholar", "importance", "mix", "replay_rows"]
