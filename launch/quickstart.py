"""Make a tiny model and its task, warm-start it, and train it with the recipe named: `make quickstart`.

What is there already is not made again. Arguments are those of launch/ppo.py; without one, experiment=quickstart.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path("outputs/quickstart")
LAUNCH = Path(__file__).parent


def write_additions(path: Path) -> None:
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def build_model(folder: Path) -> None:
    from rlhf.models.tiny import build_tiny_model

    build_tiny_model(folder, alphabet="0123456789+=", context_tokens=64)


def launch(script: str, *arguments: str) -> None:
    finished = subprocess.run([sys.executable, str(LAUNCH / script), *arguments], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "additions.jsonl").is_file():
        write_additions(FOLDER / "additions.jsonl")
    if not (FOLDER / "untrained" / "config.json").is_file():
        build_model(FOLDER / "untrained")
    if not (FOLDER / "base" / "model" / "manifest.json").is_file():
        launch("sft.py", "experiment=quickstart_sft")
    arguments = sys.argv[1:]
    chosen = any(argument.startswith("experiment=") for argument in arguments)
    launch("ppo.py", *([] if chosen else ["experiment=quickstart"]), *arguments)


if __name__ == "__main__":
    main()
