"""Find the shard folders at and below a folder: one walk for every command and for the loader."""

from collections.abc import Iterator, Mapping

from infraredcity.datasets import clip_facts
from infraredcity.errors import RemoteError
from infraredcity.files.path import AnyPath, walk
from infraredcity.shards import index_file

RECORD_NAMES = ("lite.json", "shards.json", "import.json")
"""What begins and ends a data set that was made from others."""
JOB_NAME, SEGMENTS_FOLDER = "extract.json", "segments"
"""What extract leaves beside its shards: its job spec, and a file for each segment that is done."""
_MAX_DEPTH = 4


def part_names(root: AnyPath) -> list[str]:
    """Find the folders at and below `root` that hold shards or what describes them, ordered by `ShardFolder.name`.

    Unfinished and damaged ones are among them. Links to folders are not followed.
    """
    return names_of_parts(folders_of(root))


def names_of_parts(folders: Mapping[str, set[str]]) -> list[str]:
    """Return the parts among folders that `folders_of` gave."""
    marks = {clip_facts.CLIPS_NAME, index_file.INDEX_NAME}
    return sorted(
        name for name, files in folders.items() if marks & files or any(file.endswith(".tar") for file in files)
    )


def folders_of(root: AnyPath) -> dict[str, set[str]]:
    """Return what `folders_below` gives; of a part behind a server that lists nothing, only the index."""
    try:
        return dict(folders_below(root))
    except RemoteError:
        if not (root / index_file.INDEX_NAME).is_file():
            raise
        return {".": {index_file.INDEX_NAME}}


def folders_below(root: AnyPath) -> Iterator[tuple[str, set[str]]]:
    """Yield the folders at and below `root`, named as parts are, each with the files in it.

    Hidden ones and links are left out, and the segment records of an extraction, of which there may be a million.
    """
    for place, folders, files in walk(root):
        below = place.relative_to(root)  # type: ignore[arg-type]  # both are here, or both are remote
        if len(below.parts) >= _MAX_DEPTH:
            folders.clear()
        left_out = {SEGMENTS_FOLDER} if JOB_NAME in files else set()
        folders[:] = sorted(folder for folder in folders if not folder.startswith(".") and folder not in left_out)
        yield below.as_posix(), {*files}
