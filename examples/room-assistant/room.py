"""What is said in a room and what is heard there, generated: neither alone tells what to do.

python room.py FOLDER      writes a dataset: manifest.csv, and one second of sound for every row
"""

import csv
import sys
import wave
from pathlib import Path

import numpy as np

from edgemm.verbs._demo import scenes

SOUNDS = ("silence", "steps", "bell", "bark", "glass")
DUTIES = {
    "watch": {"steps": "door", "bell": "door", "glass": "alarm"},
    "sleep": {"glass": "alarm"},
    "dog": {"bark": "dog", "glass": "alarm"},
    "mishap": {"bell": "door", "bark": "dog"},
}
"""What was said last -> sound -> event; every other sound is nothing. After "that was only me" breaking glass is nothing either."""

WORDS = {
    "watch": (
        ["tell me when", "let me know if", "listen whether", "watch out if"],
        ["somebody is at the door", "a visitor comes", "the parcel arrives", "anybody comes up the stairs"],
    ),
    "sleep": (["please", "from now on", "for an hour", "now"], ["let me sleep", "do not disturb me", "no calls for me", "good night"]),
    "dog": (
        ["please", "today", "while I work", "now"],
        ["mind the dog", "listen to the dog", "tell me if the dog barks", "look after the dog"],
    ),
    "mishap": (
        ["sorry", "oh no", "never mind", "do not worry"],
        ["that was only me", "I dropped a glass", "I broke the vase", "the bottle fell down"],
    ),
}
COUNTS = {"train": 1600, "val": 200, "test": 400}


def sentence(duty: str, rng: np.random.Generator) -> str:
    first, second = (str(rng.choice(part)) for part in WORDS[duty])
    return f"{first} {second}" if rng.random() < 0.7 else second


def write(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """Write the set; every pair of duty and sound is equally likely. Gives the folder back."""
    rows = [("split", "text", "audio", "event")]
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((counts or COUNTS).items()):
        rng = np.random.default_rng(seed)
        for number in range(count):
            duty, sound = str(rng.choice(list(DUTIES))), str(rng.choice(SOUNDS))
            name = f"audio/{split}{number:05d}.wav"
            with wave.open(str(folder / name), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(scenes.RATE_HZ)
                file.writeframes(np.round(scenes.synthesise(sound, rng) * 32767).astype("<i2").tobytes())
            rows.append((split, sentence(duty, rng), name, DUTIES[duty].get(sound, "nothing")))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]))
