"""A task on which both roads from SFT to an aligned policy can be walked on two CPU cores: write a word backwards.

`write_data` is a stage of `conf/pipeline/tiny.yaml`. Words that are held out are in none of the training files.
"""

import json
import random
from pathlib import Path

LETTERS = "abcdefgh"
NUM_WORDS, NUM_HELD_OUT = 800, 100
NUM_FAR = 4


def words() -> list[str]:
    """Different words of three or four letters, in random order."""
    generator = random.Random(0)
    found = {"".join(generator.choices(LETTERS, k=generator.randint(3, 4))): None for _ in range(2 * NUM_WORDS)}
    return list(found)[:NUM_WORDS]


def wrong_answers(word: str, generator: random.Random) -> list[str]:
    """What a half-trained model writes (two letters swapped, one lost, one too many, another one), and what a policy
    finds that looks for the reward model's blind spots: the word as it was, another one, anything."""
    right = word[::-1]
    i, letter = generator.randrange(len(right) - 1), generator.choice(LETTERS)
    before, after = right[:i], right[i + 1 :]
    near = [before + right[i + 1] + right[i] + right[i + 2 :], before + after, before + letter + right[i:],
            before + letter + after, right[:-1] + generator.choice(LETTERS), right[:-1]]  # fmt: skip
    far = ["".join(generator.choices(LETTERS, k=generator.randint(1, 5))) for _ in range(NUM_FAR)]
    return [answer for answer in dict.fromkeys([*near, word, *far]) if answer != right]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """`examples`, `prompts` and `pairs`, each also of held-out words."""
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
