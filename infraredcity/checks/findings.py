"""Hold what the checks found: findings, and the report of all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from infraredcity.checks.published import PublishedRow

Found = Callable[[str, str, str], None]
"""Takes a finding: where, which problem, and the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    part: str
    """Name of the part, see `folder.ShardFolder`."""
    where: str
    """File, or the key of a sample."""
    problem: str
    """What kind of thing it is, in a word or two: "shard-hash", "missing-sample"."""
    message: str
    """One line: what was expected, what was found, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was checked and what was found."""

    folder: str
    """The data set."""
    num_parts: int
    """Folders of shards or image files."""
    num_shards: int
    """Shards that the indexes name."""
    num_samples: int
    """Samples that the indexes name."""
    size_bytes: int
    """Bytes of these shards."""
    num_decoded: int
    """Pictures that were decoded."""
    is_quick: bool
    """Whether no shard was read."""
    manifest_hash: str | None
    """sha256 over what the samples are, see `manifest.dataset_hash`; None where a part cannot be opened, and where several
    data sets are in one folder."""
    findings: tuple[Finding, ...]
    """All that is wrong; empty for a data set that is whole."""
    notes: tuple[str, ...] = ()
    """What is untidy but does no harm."""
    counts: tuple[PublishedRow, ...] = ()
    """Published counts, where they were asked for."""


@dataclass(slots=True)
class Findings:
    """What the checks have collected so far."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_decoded: int = 0

    def of_part(self, part: str) -> Found:
        """Take findings of one part."""

        def found(where: str, problem: str, message: str) -> None:
            self.findings.append(Finding(part=part, where=where, problem=problem, message=message))

        return found
