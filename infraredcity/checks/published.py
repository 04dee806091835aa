"""Count samples beside the published counts: one table for `verify --published` and for the page of `report`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infraredcity.clips import published_counts
from infraredcity.datasets.folder import ShardFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A published count beside the samples that are here."""

    name: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class _Cell:
    """A count: its name, the published number, and what a sample's facts must be to count."""

    name: str
    expected: int
    wanted: dict[str, str]


def published_rows(kind: Literal["extracted", "lite"], parts: Sequence[ShardFolder]) -> list[PublishedRow]:
    """Compare the samples of some parts with the published table of their kind; what no published cell counts comes last.

    Args:
        kind: "extracted" for extracted clips, "lite" for a Lite set.
        parts: Their parts.
    """
    cells = list(_extracted_cells() if kind == "extracted" else _lite_cells())
    found = [0] * len(cells)
    others: dict[str, int] = {}
    for part in parts:
        counts = np.bincount(part.index.clip, minlength=len(part.index.clips)).tolist()
        for clip_id, count in zip(part.index.clips, counts, strict=True):
            clip = part.clips[clip_id]
            facts = {
                "scene": clip.scene,
                "modality": clip.modality,
                "time_of_day": clip.time_of_day,
                "weather": clip.weather,
                "split": part.split,
            }
            is_in_a_cell = False
            for number, cell in enumerate(cells):
                if cell.wanted.items() <= facts.items():
                    found[number] += count
                    is_in_a_cell = is_in_a_cell or "modality" in cell.wanted  # the others are totals
            if not is_in_a_cell:
                words = (clip.modality, clip.time_of_day if kind == "extracted" else part.split)
                name = ", ".join(words) if kind == "extracted" else f"{clip.scene}: {', '.join(words)}"
                others[name] = others.get(name, 0) + count
    rows = [
        PublishedRow(name=cell.name, expected=cell.expected, found=count)
        for cell, count in zip(cells, found, strict=True)
    ]
    return rows + [PublishedRow(name=name, expected=0, found=others[name]) for name in sorted(others)]


def _extracted_cells() -> Iterator[_Cell]:
    for name, expected in published_counts()["frames"].items():
        if name == "total":
            yield _Cell("all frames", expected, {})
        else:
            modality, _, time_of_day = name.partition("_")
            yield _Cell(f"{modality}, {time_of_day}", expected, {"modality": modality, "time_of_day": time_of_day})


def _lite_cells() -> Iterator[_Cell]:
    table = published_counts()["lite"]
    for scene, counts in table.items():
        if scene == "total":
            continue
        for name, expected in counts.items():
            if name == "total":
                yield _Cell(f"{scene}, all", expected, {"scene": scene})
            else:
                wanted = dict(zip(("modality", "split", "weather"), name.split("_"), strict=False))
                yield _Cell(f"{scene}: {', '.join(wanted.values())}", expected, {"scene": scene, **wanted})
    yield _Cell("all scenes", table["total"], {})
