"""Files for clusters that no test can start: they parse, and what they name exists."""

import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from rlhf.config import OnlineConfig, compose
from serve.config import ServeConfig
from serve.gateway.auth import is_loopback

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "launch/cluster"
RAY_UP, RAYJOB, SLURM, SERVE, DOCKERFILE = (
    CLUSTER / "ray_up.yaml", CLUSTER / "rayjob.yaml", CLUSTER / "slurm.sh", CLUSTER / "serve.yaml", ROOT / "Dockerfile",
)  # fmt: skip
FILES = [RAY_UP, RAYJOB, SLURM, SERVE, DOCKERFILE]
INSTRUCTIONS = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY"}
IN_IMAGE = "/home/rlhf/src/"


def dockerfile() -> list[tuple[str, str]]:
    """Instructions with their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in DOCKERFILE.read_text().splitlines() if line[:1] != "#"))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def rayjob() -> dict[str, Any]:
    return yaml.safe_load(RAYJOB.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_say_what_was_not_tried_and_hold_no_secret(file):
    text = file.read_text()
    assert "Not yet run on real hardware" in "\n".join(text.splitlines()[:4])
    assert not re.search(r"(?i)(password|secret_key|token)\s*[:=]\s*['\"]?[0-9a-f-]{16,}", text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ports_are_not_those_of_rays_workers(file):
    ports = [int(port) for port in re.findall(r"(?i)port=(\d+)", file.read_text())]
    assert all(not 10002 <= port <= 19999 for port in ports)


def test_commands_name_scripts_and_keys_that_exist():
    commands = [rayjob()["spec"]["entrypoint"]]
    shown = SLURM.read_text().partition("launch/cluster/slurm.sh ")[2].partition("# Submit")[0]
    commands.append("python launch/ppo.py " + re.sub(r"\\|#", " ", shown))
    for command in commands:
        _, script, *overrides = command.replace(IN_IMAGE, "").split()
        assert (ROOT / script).is_file()
        config = compose(ROOT / "conf", "online", overrides, OnlineConfig)
        assert Path(config.output).is_absolute()
    for file in FILES:
        for script in re.findall(r"launch/[\w/]+\.(?:py|yaml|sh)", file.read_text()):
            assert (ROOT / script).is_file(), f"{file.name} names {script}"


def test_ray_up_is_what_ray_accepts():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    config = yaml.safe_load(RAY_UP.read_text())
    jsonschema.validate(config, schema)
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])


def test_rayjob_has_a_token_one_image_and_shared_folders_on_every_node():
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert ray.__version__ == cluster["rayVersion"]
    assert int(yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": "/shared", "shm": "/dev/shm"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1


def test_serve_config_is_what_serve_accepts_and_its_arguments_are_keys():
    config = yaml.safe_load(SERVE.read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    module, _, function = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    words = [f"{key}={value}" for key, value in application.args.items()]
    assert compose(ROOT / "conf", "serve", words, ServeConfig).production == "one"
    assert is_loopback(config["http_options"]["host"])


def test_slurm_script_is_bash_and_stops_before_the_limit():
    subprocess.run(["bash", "-n", SLURM], check=True)
    text = SLURM.read_text()
    assert "umask 077" in text
    assert "RAY_AUTH_MODE=token" in text
    notice, wait = (int(re.search(pattern, text)[1]) for pattern in (r"--signal=B:TERM@(\d+)", r"STOP_WAIT_S=(\d+)"))
    assert 0 < wait < notice


def test_dockerfile_copies_what_is_there_and_ends_as_no_root():
    found = dockerfile()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert [name for name, _ in found if name == "USER"] == ["USER"]
    assert dict(found)["USER"] == "rlhf"
    assert f"{dict(found)['WORKDIR']}/" == IN_IMAGE
    sources = [source for name, rest in found if name == "COPY" for source in rest.split()[1:-1]]
    assert {"rlhf", "serve", "conf", "launch", "pyproject.toml"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert set(sources) == {line[1:] for line in context if line.startswith("!")}
    assert "*" in context
    assert any("pip install" in rest and "-r requirements/gpu.lock" in rest for name, rest in found if name == "RUN")


def test_compile_caches_are_on_each_nodes_own_disk():
    """They are exported before the first node starts, so that its workers inherit them."""
    text = SLURM.read_text()
    exported = dict(re.findall(r'([A-Z_]+)="\$caches/(\w+)"', text.partition("ray start --head")[0]))
    assert exported.keys() == {
        "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH"
    }  # fmt: skip
    assert len(set(exported.values())) == len(exported)
    assert re.search(r'caches="\$\{SLURM_TMPDIR:-/tmp\}/rlhf-\$USER"', text)
