"""Your own arrays with string labels; the classes arrive task by task. Run: python examples/own_data.py"""

import tempfile
from pathlib import Path

from sklearn.datasets import load_digits

import reverie
from reverie.generators import VAE
from reverie.learners import GenerativeReplay

# Stand-in for your own data: x (N, ...) uint8, or floats in [0, 1]; y (N,) strings or integers.
digits = load_digits()
x = (digits.images / 16).astype("float32")[:, None]  # (1797, 1, 8, 8)
words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
y = [words[label] for label in digits.target]

# What arrives when. A fifth of the rows of every class is held out for evaluation.
arrivals = [("zero", "one", "two"), ("three", "four"), ("five", "six", "seven"), ("eight", "nine")]
tasks = []
for names in arrivals:
    mine = [label in names for label in y]
    tasks.append((x[mine], [label for label in y if label in names]))
stream = reverie.Stream.from_arrays(tasks, scenario="class", name="own-digits")

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary) / "run"
    learner = GenerativeReplay(steps=400, generator=VAE(kl_weight=0.25))  # 64 pixels: a lighter KL term than for 784
    reverie.run(stream, learner, seed=0, out=folder, threads=1)

    # Another process, another day: nothing but the folder is needed.
    run = reverie.load(folder)
    print("accuracy on each task after each task (rows: after task, columns: task)")
    for row in run.accuracy:
        print("  ", "  ".join("   -" if value is None else f"{value:4.0%}" for value in row))
    print("answers:", ", ".join(run.predict(x[:10])))
    print("truth:  ", ", ".join(y[:10]))
    memory = run.result["memory"]
    print(f"kept: {memory['persistent_bytes']:,} bytes; stores raw data: {memory['stores_raw_data']}")
