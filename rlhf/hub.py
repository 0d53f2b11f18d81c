"""Models and data sets of the Hugging Face Hub by id, as folders of its cache at a commit."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlhf.types import InputError, RunError

ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[^\s@:]+))?(:(?P<path>[^\s:]+))?",
    re.ASCII,
)
"""`owner/name`, `@revision` (a branch, a tag or a commit) and, for data sets, `:path` of a file or folder in it."""
COMMIT = re.compile(r"[0-9a-f]{40}")
FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".txt", ".csv", ".jinja", ".py", ".safetensors")
"""Suffixes of local files: `data/rows.jsonl` looks like an id, but the Hub is not asked for it."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*")
OTHER_MODEL_FILES = ("consolidated*", "original/*", "onnx/*", "openvino/*")
"""Copies of the weights in formats that are not read."""
TIMEOUT_S = 20.0
"""Seconds the Hub may take to list the files of a repository; huggingface_hub has no deadline for that."""


@dataclass(kw_only=True, slots=True)
class Snapshot:
    """The origin of a folder."""

    id: str
    """The id as the configuration has it."""
    commit: str
    """The commit whose files are in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubId:
    """A repository of the Hub that a key of the configuration names."""

    key: str
    text: str
    """The value of the key."""
    repo_type: str
    """`model` or `dataset`."""
    name: str
    """`owner/name`."""
    revision: str | None
    """Branch, tag or commit; None: the newest commit of the main branch."""
    path: str | None
    """A file or folder in the repository; None: all of it."""

    def __str__(self) -> str:
        return f"{self.key}={self.text}"

    @property
    def allow_patterns(self) -> list[str] | None:
        """Patterns of the files that are downloaded; None: all of them."""
        if self.repo_type == "model":
            return list(MODEL_FILES)
        return None if self.path is None else [self.path, f"{self.path}/*"]


def parse(key: str, text: str, repo_type: str) -> HubId | None:
    """Return the repository that a value names; None if the value is a path. A value that exists locally is a path.

    Raises InputError if the value names a path in a model's repository.
    """
    match = ID.fullmatch(text)
    if match is None or Path(text).exists():
        return None
    if text.endswith(FILE_SUFFIXES) and match["name"] == text:
        return None
    if match["path"] is not None and repo_type == "model":
        raise InputError(f"{key}={text}: a model is a whole repository; leave out :{match['path']}")
    path = match["path"] and match["path"].strip("/")
    return HubId(
        key=key, text=text, repo_type=repo_type, name=match["name"], revision=match["revision"], path=path or None
    )


def is_folder_of(origin: Snapshot, repo_type: str, path: str) -> bool:
    """Return whether `path` is the folder of the cache that holds the id at that commit."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    match = ID.fullmatch(origin.id)
    if match is None:
        return False
    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    folder = cache / repo_folder_name(repo_id=match["name"], repo_type=repo_type) / "snapshots" / origin.commit
    return Path(path) == folder / (match["path"] or "").strip("/")


def download(source: HubId, commit: str | None = None) -> tuple[Path, str]:
    """Return the file or folder of an id in the cache, and its commit: `commit`, if given, else that of the revision.

    A commit that the cache holds completely (see `cached_folder`) is used without a request to the Hub; with
    HF_HUB_OFFLINE=1 so is the revision's last known commit. Raises InputError if the repository, revision or file does
    not exist or cannot be read; RunError if the Hub does not answer.
    """
    from huggingface_hub import HfApi, is_offline_mode

    revision = commit or source.revision
    if is_offline_mode() or (revision and COMMIT.fullmatch(revision)):
        folder = cached_folder(source, revision)
        if folder is not None:
            return path_in(source, folder), folder.name
        if is_offline_mode():
            raise InputError(not_cached(source, revision))
    with explain_errors(source, revision):
        api = HfApi(endpoint=endpoint())
        ask = api.model_info if source.repo_type == "model" else api.dataset_info
        files = ask(source.name, revision=revision, timeout=TIMEOUT_S).siblings
        if files:
            check_files(source, [file.rfilename for file in files])
        folder = snapshot(source, revision)
        if snapshot_files(source, folder) is None:
            # If the Hub breaks off, snapshot_download returns a folder with the files of earlier downloads only.
            raise RunError(
                f"{source}: {endpoint()} does not list the files of commit {folder.name}; run the same command again, "
                "or set HF_ENDPOINT to another mirror"
            )
    check_files(source, files_in(folder))
    return path_in(source, folder), folder.name


def cached_folder(source: HubId, revision: str | None) -> Path | None:
    """Return the snapshot in the cache if it is complete: huggingface_hub holds the list of files of its commit, which
    every snapshot_download writes, and all listed files that are read exist. A single named file needs no list.

    Raises InputError if the repository lacks files that are required.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot(source, revision, cached_only=True)  # raises where a file of the list is missing
    except LocalEntryNotFoundError:
        return None
    names = snapshot_files(source, folder)
    if names is None:
        return folder if source.path is not None and path_in(source, folder).is_file() else None
    check_files(source, names)
    check_files(source, files_in(folder))
    return folder


def snapshot_files(source: HubId, folder: Path) -> list[str] | None:
    """List all files of a snapshot's commit, cached or not; None if only single files of it were ever downloaded."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(source.name, repo_type=source.repo_type, revision=folder.name)
    except CachedRepoTreeNotFoundError:
        return None
    return [file.path for file in tree]


def snapshot(source: HubId, revision: str | None, *, cached_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            source.name,
            repo_type=source.repo_type,
            revision=revision,
            allow_patterns=source.allow_patterns,
            ignore_patterns=list(OTHER_MODEL_FILES) if source.repo_type == "model" else None,
            endpoint=endpoint(),
            local_files_only=cached_only,
        )
    )


def path_in(source: HubId, folder: Path) -> Path:
    return folder / source.path if source.path else folder


def files_in(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def check_files(source: HubId, names: Collection[str]) -> None:
    """Raise InputError if a repository lacks files that are required."""
    if source.repo_type == "model":
        if "adapter_config.json" in names and "config.json" not in names:
            raise InputError(
                f"{source}: it is an adapter (LoRA), not a model; merge it into its base model with peft's "
                "merge_and_unload, save that with the tokenizer, and give the folder"
            )
        if not any(name.endswith(".safetensors") for name in names):
            raise InputError(
                f"{source}: it has no *.safetensors; name a model whose weights are in safetensors format, or convert "
                "it and give the folder"
            )
        return
    if source.path is not None:
        if not any(name == source.path or name.startswith(f"{source.path}/") for name in names):
            top = ", ".join(sorted({name.partition("/")[0] for name in names})[:10])
            raise InputError(f"{source}: it has no {source.path}, only {top}; name one of them")
        return
    script = f"{PurePosixPath(source.name).name}.py"
    if script in names:
        revision = f"{source.name}@refs/convert/parquet"
        raise InputError(
            f"{source}: its rows are made by a loading script ({script}), which is never run; give {revision}, where "
            f"the Hub keeps most of them as Parquet, or a file in it, as in {source.name}:FILE"
        )


def endpoint() -> str:
    """Return the address of the Hub, or of the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def not_cached(source: HubId, revision: str | None) -> str:
    from huggingface_hub import constants

    at = f" at {revision}" if revision else ""
    return (
        f"{source}: there is no such file or folder, the Hub's cache ({constants.HF_HUB_CACHE}) does not hold this "
        f"{source.repo_type}{at} as a whole, and HF_HUB_OFFLINE is set; correct the path, or run once with "
        "HF_HUB_OFFLINE=0 to download it"
    )


@contextmanager
def explain_errors(source: HubId, revision: str | None) -> Iterator[None]:
    """Convert the errors of a block that calls the Hub into InputError or RunError of one sentence."""
    from huggingface_hub import errors

    hub = endpoint()
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError:
        raise InputError(
            f"{source}: it is gated; accept its conditions on {hub}/{source.name} and set HF_TOKEN to a token of that "
            "account, or log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{source}: there is no such file or folder, and {hub} has no {source.repo_type} of that name, or a "
            "private one; correct it, or set HF_TOKEN to a token that may read it"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{source}: {hub} has no revision {revision!r} of it; name a branch, a tag or a whole commit"
        ) from None
    except errors.HFValidationError as error:
        raise InputError(f"{source}: it is neither a path nor an id of the Hub ({one_line(error)})") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(f"{source}: {hub} denies access ({status}); set HF_TOKEN to a valid token") from None
        raise RunError(
            f"{source}: {hub} answers with error {status}; try again later, or set HF_ENDPOINT to a mirror"
        ) from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError) as error:
        raise RunError(
            f"{source}: there is no such file or folder, and {hub} cannot be reached "
            f"({one_line(error.__cause__ or error)}); check the network, name a mirror "
            "(HF_ENDPOINT=https://...), or set HF_HUB_OFFLINE=1 to use what is cached"
        ) from None
    except (errors.XetDownloadError, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the local disk
        raise RunError(
            f"{source}: {hub} sent an invalid or incomplete answer ({one_line(error)}); run the same "
            "command again, which continues the download, or set HF_ENDPOINT to another mirror"
        ) from None


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
