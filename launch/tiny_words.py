"""Tiny task for SFT, preference training and online RL on two CPU cores: write a word backwards.

`write_data` is a stage of `conf/pipeline/tiny.yaml`. Held-out words are in none of the training files.
"""

import json
import random
from pathlib import Path

LETTERS = "abcdefgh"
NUM_WORDS, NUM_HELD_OUT = 800, 100


def words() -> list[str]:
    """Return different words of three or four letters, in random order."""
    generator = random.Random(0)
    found = {"".join(generator.choices(LETTERS, k=generator.randint(3, 4))): None for _ in range(2 * NUM_WORDS)}
    return list(found)[:NUM_WORDS]


def wrong_answers(word: str, generator: random.Random) -> list[str]:
    """Return mistakes of a half-trained model (letters in wrong places, one missing, one too many), and outputs that
    exploit blind spots of a reward model: the word itself, another word, random letters."""
    right = word[::-1]
    i = generator.randrange(len(right))
    near = [right[:i] + right[i + 1 :], right[:i] + generator.choice(LETTERS) + right[i:]]
    for num_changed in (1, 1, 1, 2, 2, 3):
        letters = list(right)
        for place in generator.sample(range(len(right)), num_changed):
            letters[place] = generator.choice(word + generator.choice(LETTERS))
        near.append("".join(letters))
    far = [word, "".join(generator.choices(LETTERS, k=generator.randint(1, 5)))]
    return [answer for answer in dict.fromkeys([*near, *far]) if answer != right]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write the files of words, examples and pairs, for training and for held-out words."""
    generator = random.Random(1)
    every = words()
    for name, chosen in (("train", every[NUM_HELD_OUT:]), ("held_out", every[:NUM_HELD_OUT])):
        answers = [{"prompt": f"{word}=", "answer": word[::-1]} for word in chosen]
        write_rows(folder / f"words_{name}.jsonl", answers)
        pairs = [
            {"prompt": f"{word}=", "chosen": word[::-1], "rejected": wrong}
            for word in chosen
            for wrong in wrong_answers(word, generator)
        ]
        write_rows(folder / f"pairs_{name}.jsonl", pairs)
