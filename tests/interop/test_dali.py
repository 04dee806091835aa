"""The index files for DALI, read as its documentation describes version 1.2; DALI itself needs packages of another registry."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from interop_sets import expected


@dataclass(frozen=True)
class Component:
    extension: str
    offset: int
    size: int
    name: str


def read_index(path: Path) -> list[list[Component]]:
    """The samples of a `.idx`: a line `v1.2 <samples>`, then for each sample groups of extension, offset, size and file name."""
    head, *lines = path.read_text(encoding="ascii").splitlines()
    version, count = head.split(" ")
    assert version == "v1.2"
    assert int(count) == len(lines)
    samples = []
    for line in lines:
        words = line.split(" ")
        assert len(words) % 4 == 0
        groups = zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True)
        samples.append([Component(extension, int(offset), int(size), name) for extension, offset, size, name in groups])
    return samples


def test_each_component_of_the_dali_index_is_a_member(extracted: Path, lite_set: Path) -> None:
    for root, name in ((extracted, "city_clear"), (extracted, "city_day"), (lite_set, "city/infrared-train")):
        found = []
        for path in sorted((root / name).glob("*.idx")):
            shard = path.with_suffix(".tar").read_bytes()
            for image, facts in read_index(path):
                for component in (image, facts):
                    # A tar header of 512 bytes stands before the data and names it.
                    header = shard[component.offset - 512 : component.offset]
                    assert header[:100].rstrip(b"\0").decode() == component.name
                    assert int(header[124:135], 8) == component.size
                    assert component.offset % 512 == 0
                key = image.name.partition(".")[0]
                assert (image.name, facts.name) == (f"{key}.{image.extension}", f"{key}.{facts.extension}")
                picture = shard[image.offset : image.offset + image.size]
                told = json.loads(shard[facts.offset : facts.offset + facts.size])
                found.append([key, hashlib.sha256(picture).hexdigest(), told])
        assert found == [sample.row for sample in expected(root, name)]
