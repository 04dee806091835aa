"""The folder of a run: the names in it, who holds it, and whether it is of the same settings and pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infraredcity.files.lock import lock_folder
from infraredcity.files.records import read_json
from infraredcity.files.temporary import remove_temporaries
from roma.config.compare import differences
from roma.config.overlay import as_it_ran, updated
from roma.errors import ConfigError
from roma.training import checkpoint, profile
from roma.world.world import World

CONFIG_NAME = "config.json"
SAMPLES = "samples"
LOGS = "logs"
LOADER = "loader"
"""What each rank's loader does, for `infraredcity monitor`."""
UNREADABLE_NAME = "unreadable.json"
"""In LOADER: pictures that were passed over, and why."""
_LOCK_WAIT_S = 100.0
"""How long a run of several ranks waits for the folder that a lost machine held; NFS 4 frees it after 90 s."""

DataFacts = dict[str, dict[str, Any]]
"""What a run is trained on: for "infrared" and "visible" {"data_hash": ..., "num_frames": ...}."""


@contextmanager
def claimed(run: Path, world: World) -> Iterator[None]:
    """Hold a run's folder inside the block, cleared of what a killed run was writing; a collective.

    Raises:
        OutputError: Another process holds it, or it cannot be written.
    """
    if not world.is_leader:
        world.barrier()
        yield
        return
    with lock_folder(run, wait_s=_LOCK_WAIT_S if world.world_size > 1 else 0.0):
        for folder in (run, *(run / name for name in (checkpoint.FOLDER, SAMPLES, LOADER, profile.FOLDER))):
            if folder.is_dir():
                remove_temporaries(folder)
        world.barrier()  # whoever held the folder before has written its last checkpoint
        yield


def check_same_run(config: object, run: Path, *, result_name: str) -> None:
    """Refuse a folder that was begun with other settings.

    Those may change that alter rounding at most, or what is written and how often.

    Args:
        config: The whole run.
        run: Its folder.
        result_name: The file that the run makes. Without it and without checkpoints the run begins anew in any case.

    Raises:
        ConfigError: Another setting differs, or the folder's config is of another command or damaged.
    """
    path = run / CONFIG_NAME
    if not path.exists():
        return
    try:
        before = updated(type(config)(), as_it_ran(read_json(path)), where=f"{path}: ")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged ({error}); use another --out") from error
    except ConfigError as error:
        raise ConfigError(f"{error}; it is of another command or version, so use another --out") from error
    changed = [change for change in differences(before, config) if not _may_change(change.partition(" ")[0])]
    if changed and (checkpoint.saved(run) or (run / result_name).exists()):
        raise ConfigError(f"{run}: was begun with other settings: {'; '.join(changed)}; use the same, or another --out")


def check_same_pictures(run: Path, before: DataFacts, now: DataFacts) -> None:
    """Refuse to go on over other pictures.

    Raises:
        ConfigError: A domain's pictures are not those that the run was begun on.
    """
    for name, old in before.items():
        new = now[name]
        if old["data_hash"] != new["data_hash"]:
            raise ConfigError(
                f"{run}: was begun on other {name} pictures: {old['num_frames']} frames of hash {old['data_hash'][:8]}, now "
                f"{new['num_frames']} of {new['data_hash'][:8]}; bring those shards back, or use another --out"
            )


def _may_change(setting: str) -> bool:
    """Whether a run may go on with another value: it changes rounding at most, or what is written and how often."""
    return setting.startswith(("compute.", "output.")) and setting != "output.best_by"
