import io
import itertools
import json
import logging
import re
import shlex
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from processes import PATIENCE_S
from synthetic import barcode, picture
from torch.utils.data import DataLoader

from infraredcity.errors import ImageError, ShardError
from infraredcity.loader.webdataset import pipeline
from infraredcity.loader.windows import FrameWindows
from infraredcity.stills.formats import encode

# Two workers are two also where one core is left to the tests.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

JPGS = [encode(picture(number), "jpg") for number in range(48)]
NUM_SHARDS, NUM_FRAMES = 6, 8  # of each shard, so that it holds 7 pairs


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pipes of six shards of eight frames of one clip, as webdataset's writer makes them."""
    folder = tmp_path_factory.mktemp("shards")
    with webdataset.ShardWriter(str(folder / "s-%03d.tar"), maxcount=NUM_FRAMES, verbose=0) as writer:
        for frame, jpg in enumerate(JPGS):
            told = {"clip": "city_clear", "frame_index": frame}
            writer.write({"__key__": f"city_clear_{frame:08d}", "jpg": jpg, "json": told})
    return [pipe(path) for path in sorted(folder.glob("*.tar"))]


def pipe(path: Path) -> str:
    return f"pipe:cat {shlex.quote(str(path))}"


def write(path: Path, *samples: dict[str, Any]) -> Path:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def shown(batches: list[FrameWindows]) -> list[list[int]]:
    """The frame numbers that the pixels of all windows show."""
    return [[barcode(frame.permute(1, 2, 0).numpy()) for frame in window] for one in batches for window in one.frames]


PAIRS = [[8 * shard + k, 8 * shard + k + 1] for shard in range(NUM_SHARDS) for k in range(7)]


def test_every_pair_of_neighbours_within_a_shard_comes_once(shards: list[str]) -> None:
    batches = list(pipeline(shards, batch_size=4))
    assert sorted(shown(batches)) == PAIRS
    assert shown(batches) != PAIRS
    assert [len(batch.keys) for batch in batches] == [4] * 10 + [2]
    first = batches[0]
    assert (first.frames.shape, first.frames.dtype) == ((4, 2, 3, 64, 96), torch.uint8)
    assert [[int(key[-8:]) for key in keys] for keys in first.keys] == shown([first])
    assert first.positions.tolist() == [-1] * 4


def test_windows_come_in_order_without_a_buffer_and_at_a_stride(shards: list[str]) -> None:
    batches = list(pipeline(shards[:2], batch_size=3, window_frames=3, stride=2, shuffle_buffer=0, color="gray"))
    assert shown(batches) == [[f, f + 2, f + 4] for f in (*range(4), *range(8, 12))]
    assert batches[0].frames.shape[2] == 1


def test_a_size_resizes(shards: list[str]) -> None:
    (batch,) = pipeline(shards[:1], batch_size=7, size=(32, 48))
    assert batch.frames.shape == (7, 2, 3, 32, 48)
    assert sorted(shown([batch])) == PAIRS[:7]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_ranks_and_their_workers_read_every_shard_once_together(shards: list[str], num_workers: int) -> None:
    found: list[list[int]] = []
    owners: dict[int, set[int]] = {}
    for rank in range(2):
        stream = pipeline(shards, batch_size=5, rank=rank, world_size=2)
        batches = list(DataLoader(stream, batch_size=None, num_workers=num_workers))
        assert max(len(batch.keys) for batch in batches) == 2 + rank  # 5 windows are cut into 2 and 3
        found += shown(batches)
        for window in shown(batches):
            owners.setdefault(window[0] // NUM_FRAMES, set()).add(rank)
    assert sorted(found) == PAIRS
    assert all(len(ranks) == 1 for ranks in owners.values())
    assert Counter(rank for ranks in owners.values() for rank in ranks) == {0: 3, 1: 3}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_seed_and_epoch_give_one_order(shards: list[str], num_workers: int) -> None:
    orders = {}
    for seed, epoch in itertools.product((0, 1), (0, 1)):
        stream = pipeline(shards, batch_size=4, seed=seed, shuffle_buffer=10)
        stream.set_epoch(epoch)
        loader = DataLoader(stream, batch_size=None, num_workers=num_workers)
        orders[seed, epoch] = shown(list(loader))
        assert shown(list(loader)) == orders[seed, epoch]
        assert sorted(orders[seed, epoch]) == PAIRS
    assert len({str(order) for order in orders.values()}) == 4


def test_workers_that_live_on_see_the_next_epoch(shards: list[str]) -> None:
    stream = pipeline(shards, batch_size=4)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append(shown(list(loader)))
    assert orders[0] == orders[2] != orders[1]


def test_no_window_spans_a_gap_another_clip_or_a_sample_without_a_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sample(key: str, shows: int, **told: object) -> dict[str, Any]:
        return {"__key__": key, "jpg": JPGS[shows], **({"json": told} if told else {})}

    path = write(
        tmp_path / "x.tar",
        sample("k0", 0, clip="a", frame_index=0),  # the json member counts, not the key
        sample("k7", 1, clip="a", frame_index=1),
        sample("k8", 2, clip="a", frame_index=3),
        sample("k9", 3, clip="b", frame_index=4),
        sample("cam/C_10", 4),  # from here on the key
        sample("cam/C_11", 5),
        {"__key__": "cam/C_12", "txt": "no picture"},
        sample("cam/C_13", 6, other=1),
        sample("cam/C_14", 7),
        sample("one", 8),  # from here on the place
        sample("two", 9),
    )
    assert shown(list(pipeline([pipe(path)], batch_size=99, shuffle_buffer=0))) == [[0, 1], [4, 5], [6, 7], [8, 9]]
    assert "pipe:cat ... (shard 1 of 1): 4 windows from 11 samples; left out 1 samples without a picture" in caplog.text


def test_frames_that_lie_further_apart_are_neighbours_at_their_own_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "x.tar", *({"__key__": f"a_{10 * n}", "jpg": JPGS[n]} for n in range(4)))
    with caplog.at_level(logging.WARNING):
        assert list(pipeline([str(path)], batch_size=2)) == []
    assert "where too few windows come, check frame_step (1)" in caplog.text
    batches = list(pipeline([str(path)], batch_size=2, frame_step=10, shuffle_buffer=0))
    assert shown(batches) == [[0, 1], [1, 2], [2, 3]]


def test_a_tar_that_is_cut_at_a_blocks_border_is_an_error_not_a_shorter_shard(tmp_path: Path) -> None:
    data = write(tmp_path / "x.tar", *({"__key__": f"a_{n}", "jpg": JPGS[n]} for n in range(4))).read_bytes()
    cut = tmp_path / "cut.tar"
    for size in range(0, len(data.rstrip(b"\0")), 512):
        cut.write_bytes(data[:size])
        for url, name in ((pipe(cut), r"pipe:cat \.\.\. \(shard 1 of 1\)"), (str(cut), r"cut\.tar")):
            with pytest.raises(ShardError, match=rf"{name}: [^\n]*copy the shard again$"):
                list(pipeline([url], batch_size=2))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("pipe:false", r"pipe:false \.\.\. \(shard 1 of 1\): cannot be read \(exit 1\)"),
        ("pipe:cat {good}; exit 3", "exit 3"),
        ("{folder}/gone.tar", r"gone\.tar: cannot be opened"),
        ("nothing://x.tar", r"nothing://x\.tar: cannot be opened"),
        ("pipe:head -c 5000 /dev/urandom", "damaged at byte 0: neither a member nor the end"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_one_line(shards: list[str], tmp_path: Path, url: str, said: str) -> None:
    good = shards[0].removeprefix("pipe:cat ")
    with pytest.raises(ShardError, match=said) as caught:
        list(pipeline([url.format(good=good, folder=tmp_path)], batch_size=2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("pipe:TOKEN=SECRET sh -c 'exit 3'", r"pipe:TOKEN=\.\.\. \(shard 1 of 1\): cannot be read \(exit 3\)"),
        ("pipe:cat {good} # ?token=SECRET", r"pipe:cat \.\.\. \(shard 1 of 1\)"),
        ("pipe:cat {no_json} # SECRET", r"pipe:cat \.\.\. \(shard 1 of 1\): the json of sample"),
        ("pipe:cat {two} # SECRET", r"pipe:cat \.\.\. \(shard 1 of 1\): sample 'a' has 2 pictures"),
        ("nothing://user:SECRET@x/y.tar?token=SECRET", r"nothing://x/y\.tar: cannot be opened"),
    ],
)
def test_no_message_shows_a_password_of_a_url_or_what_a_command_is_given(
    shards: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str, name: str
) -> None:
    no_json = write(tmp_path / "no_json.tar", {"__key__": "a", "jpg": JPGS[0], "json": b"{"})
    two = write(tmp_path / "two.tar", {"__key__": "a", "left.jpg": JPGS[0], "right.jpg": JPGS[0]})
    url = url.format(good=shards[0].removeprefix("pipe:cat "), no_json=no_json, two=two)
    said = ""
    try:
        list(pipeline([url], batch_size=1, window_frames=9))  # of eight frames, which is worth a warning
    except ShardError:
        said = traceback.format_exc()
    said += caplog.text
    assert re.search(name, said)
    assert "SECRET" not in said


def test_damaged_members_are_errors_that_name_their_sample(tmp_path: Path) -> None:
    good = {"__key__": "a_0", "jpg": JPGS[0]}
    bad_json = write(tmp_path / "x.tar", good, {"__key__": "a_1", "jpg": JPGS[1], "json": b"{"})
    with pytest.raises(ShardError, match=r"pipe:cat .*: the json of sample 'a_1' is none .*; rebuild the shard"):
        list(pipeline([pipe(bad_json)], batch_size=1))
    bad_jpg = write(tmp_path / "y.tar", good, {"__key__": "a_1", "jpg": JPGS[1][:200]})
    with pytest.raises(ImageError, match="a_1: "):
        list(pipeline([pipe(bad_jpg)], batch_size=1))
    small = encode(picture(1, 48, 32), "jpg")
    sizes = write(tmp_path / "z.tar", good, {"__key__": "a_1", "jpg": small})
    with pytest.raises(ShardError, match="one batch holds frames of 48x32 and 96x64; give the pipeline a size"):
        list(pipeline([pipe(sizes)], batch_size=1))


def test_an_iteration_that_is_left_ends_its_command(shards: list[str]) -> None:
    stream = iter(pipeline([f"{shards[0]}; sleep 0.2; cat /dev/zero"], batch_size=1, shuffle_buffer=0))
    assert shown([next(stream)]) == [[0, 1]]
    stream.close()  # type: ignore[attr-defined]


def test_shards_come_through_stdin(shards: list[str]) -> None:
    code = (
        "import json; from infraredcity.loader.webdataset import pipeline;"
        "print(json.dumps([one.keys for one in pipeline('-', batch_size=7, shuffle_buffer=0)]))"
    )
    data = Path(shards[1].removeprefix("pipe:cat ")).read_bytes()
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=PATIENCE_S)
    (keys,) = json.load(io.BytesIO(done.stdout))
    assert keys == [[f"city_clear_{frame:08d}" for frame in pair] for pair in PAIRS[7:14]]


def test_a_caller_is_told_what_makes_no_sense(shards: list[str]) -> None:
    with pytest.raises(ValueError, match="a global batch of 1 cannot feed 2 ranks; make it at least 2"):
        pipeline(shards, batch_size=1, world_size=2)
    with pytest.raises(ValueError, match="6 shards cannot feed 7 ranks; cut the data into smaller shards"):
        pipeline(shards, batch_size=7, world_size=7)
    with pytest.raises(ValueError, match="0 shards cannot feed 1 ranks"):
        pipeline([], batch_size=1)
    with pytest.raises(ValueError, match=r"rank must be in \[0, 1\), got 1"):
        pipeline(shards, batch_size=1, rank=1)
    with pytest.raises(ValueError, match="window_frames, stride and frame_step must be at least 1"):
        pipeline(shards, batch_size=1, stride=0)
