"""Walk the parts and sets of a data set and call all checks: of shards, index, sidecars, sets and published counts.

Nothing is trusted: every tar is read and hashed, every member compared with the index and clips.json. All that is wrong is found in
one run and reported as findings; nothing is changed. A remote data set is checked in the same way: each shard is read once, so all
its bytes are downloaded, and none is kept. A failure of the network is an error, not a finding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from infraredcity.checks.expected import wids_problem
from infraredcity.checks.findings import Findings, Found, VerifyReport
from infraredcity.checks.index import check_clips, check_columns, check_gaps
from infraredcity.checks.published import PublishedRow, published_rows
from infraredcity.checks.sets import LITE_NAME, check_begun, check_manifests, check_set
from infraredcity.checks.shards import ShardResult, check_files, check_other_tars, check_shard, look_at_shard
from infraredcity.datasets import clip_facts
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import sets_of
from infraredcity.datasets.folder import ShardFolder, open_folder, shard_sizes
from infraredcity.datasets.walk import RECORD_NAMES, folders_of, names_of_parts
from infraredcity.errors import ManifestError, check_choice
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.temporary import TEMPORARY_PREFIX
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards import index_file, sidecars
from infraredcity.threads import in_order, threads_for

DecodeChoice = Literal["all", "sample", "none"]
DECODE_CHOICES: tuple[DecodeChoice, ...] = ("all", "sample", "none")
_SAMPLE_OF_PART = 32
"""How many pictures of a part are decoded with decode="sample"."""


def _check_wids(part: ShardFolder, found: Found) -> None:
    problem = wids_problem(part)
    if problem is not None:
        path = part.path / sidecars.WIDS_NAME
        found(path.name, "sidecar", f'{path}: {problem}; run "infraredcity repair"')


PART_CHECKS: tuple[Callable[[ShardFolder, Found], None], ...] = (check_columns, check_clips, check_gaps)
"""Checks of one part that read only what is small; a new one is a function in this list."""
SIDECAR_CHECKS: tuple[Callable[[ShardFolder, Found], None], ...] = (_check_wids,)
"""Checks of one part that `quick` leaves out."""


def verify(
    root: AnyPath,
    *,
    published: bool = False,
    decode: DecodeChoice = "sample",
    quick: bool = False,
    on_progress: OnProgress | None = None,
) -> VerifyReport:
    """Check all parts of a data set, or of several in one folder.

    Args:
        root: A part, a data set, or a folder of data sets.
        published: Compare with the published counts: those of the clips where `root` holds extracted clips, those of the Lite table
            where it holds a Lite set.
        decode: Whether pictures are decoded: all, 32 of each part, or none.
        quick: Check only that shards exist with the right size, and that indexes, clips.json, gaps.json and records agree. No byte
            of a shard is read, no manifest and no index file of other readers.
        on_progress: Called with the samples that were read.

    Raises:
        ManifestError: There is no data set.
        RemoteError: `root` is on another machine, which could not be read in time.
    """
    check_choice("decode", decode, DECODE_CHOICES)
    folders = folders_of(root)
    names = names_of_parts(folders)
    if not names:
        what = "no such folder" if not root.is_dir() else "holds no shards"
        raise ManifestError(f"{root}: {what}; name a folder that extract, make-lite or shard wrote")
    findings = Findings()
    opened: dict[str, ShardFolder] = {}
    for name in names:
        part = _opened(root, name, folders[name], findings, is_quick=quick)
        if part is not None:
            opened[name] = part
    total = sum(len(part.index) for part in opened.values())
    ticker = Ticker("samples", total, on_progress)
    for part in opened.values():
        _check_part(part, folders[part.name], findings, decode, ticker.add, is_quick=quick)
    check_begun(root, folders, names, findings)
    sets = {place or ".": members for place, members in sets_of(root, names).items()}
    hashes = [
        check_set(root, place, [opened[name] for name in members if name in opened], members, findings, is_quick=quick)
        for place, members in sets.items()
    ]
    counts = _check_published(root, sets, opened, findings) if published else ()
    parts = list(opened.values())
    return VerifyReport(
        folder=str(root),
        num_parts=len(names),
        num_shards=sum(len(part.index.shards) for part in parts),
        num_samples=total,
        size_bytes=sum(info.size_bytes for part in parts for info in part.index.shards),
        num_decoded=findings.num_decoded,
        is_quick=quick,
        manifest_hash=hashes[0] if len(hashes) == 1 else None,
        findings=tuple(findings.findings),
        notes=tuple(findings.notes),
        counts=counts,
    )


def _opened(root: AnyPath, name: str, files: set[str], findings: Findings, *, is_quick: bool) -> ShardFolder | None:
    """Open a part, or report why it cannot be opened."""
    folder = root / name
    found = findings.of_part(name)
    leftovers = sum(file.startswith(TEMPORARY_PREFIX) for file in files)
    if isinstance(folder, RemotePath) and files == {index_file.INDEX_NAME}:
        findings.notes.append(f"{folder}: the server lists nothing, so what does not belong there was not looked for")
    if leftovers:
        findings.notes.append(
            f"{folder}: {leftovers} temporary files of a run that was killed; the same command removes them"
        )
    try:
        clips, _ = clip_facts.read_folder(folder)
        if index_file.INDEX_NAME not in files and _holds_files(clips):
            check_files(folder, files, clips, findings, found, is_quick=is_quick)
            return None
    except ManifestError as error:
        found(clip_facts.CLIPS_NAME, "unfinished", str(error))
        return None
    try:
        part = open_folder(root, name)
    except ManifestError as error:
        found(index_file.INDEX_NAME, "index", str(error))
        return None
    if part.stored_hash != part.index.samples_hash():
        found(
            index_file.INDEX_NAME,
            "index",
            f"{folder / index_file.INDEX_NAME}: its rows are not those it was written with; "
            'rebuild it with "infraredcity repair"',
        )
    return part


def _holds_files(clips: Mapping[str, ClipFacts]) -> bool:
    return any(facts.extraction.get("to") == "frames" for facts in clips.values())


def _check_part(
    part: ShardFolder,
    files: set[str],
    findings: Findings,
    decode: DecodeChoice,
    on_samples: Callable[[int], None],
    *,
    is_quick: bool,
) -> None:
    found = findings.of_part(part.name)
    chosen = _to_decode(len(part.index), decode)
    there = shard_sizes(part) if is_quick else {}

    def check(numbered: tuple[int, np.ndarray]) -> "ShardResult":
        return look_at_shard(part, *numbered, there) if is_quick else check_shard(part, *numbered, chosen)

    missing: dict[str, str] = {}
    problems: list[tuple[str, str, str]] = []
    results = in_order(check, enumerate(part.index.rows_by_shard()), num_threads=threads_for(part.path), name="verify")
    for info, result in zip(part.index.shards, results, strict=True):
        for finding in result.findings:
            found(*finding)
        problems += result.sidecars
        findings.num_decoded += result.num_decoded
        if result.is_missing:
            missing[info.sha256] = info.name
        on_samples(result.num_samples)
    check_other_tars(part, files, missing, found, is_quick=is_quick)
    for check_part in PART_CHECKS:
        check_part(part, found)
    if is_quick:
        return
    for check_part in SIDECAR_CHECKS:
        check_part(part, found)
    for finding in problems:
        found(*finding)
    check_manifests(part.path, [part], part.name, findings)


def _to_decode(num_samples: int, decode: DecodeChoice) -> frozenset[int]:
    if decode == "none" or num_samples == 0:
        return frozenset()
    if decode == "all":
        return frozenset(range(num_samples))
    return frozenset(np.linspace(0, num_samples - 1, _SAMPLE_OF_PART).round().astype(int).tolist())


def _check_published(
    root: AnyPath, sets: Mapping[str, Sequence[str]], opened: Mapping[str, ShardFolder], findings: Findings
) -> tuple[PublishedRow, ...]:
    """Compare with the published counts; each difference is a finding."""
    rows: list[PublishedRow] = []
    for place, names in sets.items():
        parts = [opened[name] for name in names if name in opened]
        if (root / place / LITE_NAME).is_file():
            rows += published_rows("lite", parts)
        elif not any((root / place / record).is_file() for record in RECORD_NAMES):
            rows += published_rows("extracted", parts)
    found = findings.of_part(".")
    if not rows:
        found(
            ".",
            "published",
            f"{root}: holds neither extracted clips nor a Lite set, so there is nothing to compare with",
        )
    for row in rows:
        if row.expected != row.found:
            found(row.name, "published", f"{row.name}: {row.expected:,} frames are published, {row.found:,} are here")
    return tuple(rows)
