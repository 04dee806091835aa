from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infraredcity.datasets import similarity
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import ShardFolder, open_folder, write_folder
from infraredcity.datasets.similarity import NEAR_BITS
from infraredcity.errors import ImageError
from infraredcity.shards.index import IndexEntry, ShardInfo, from_entries
from infraredcity.shards.writer import open_shard
from infraredcity.stills.decode import decode, decode_small
from infraredcity.stills.formats import encode
from infraredcity.stills.phash import hashes_of


def hash_of(gray: np.ndarray) -> int:
    return int(hashes_of(gray[None])[0])


def slow_hash(gray: np.ndarray) -> int:
    """The hash from its definition, in floating point: means of 32x32 boxes, cosine sums one by one, bits above the median."""
    height, width = gray.shape
    # Each pixel 32 times each way, so that every box holds whole ones.
    fine = np.kron(gray.astype(np.float64), np.ones((32, 32)))
    small = fine.reshape(32, height, 32, width).mean(axis=(1, 3))
    waves = []
    for v in range(1, 9):
        for u in range(1, 9):
            across = np.cos(np.pi * (2 * np.arange(32) + 1) * u / 64)
            down = np.cos(np.pi * (2 * np.arange(32) + 1) * v / 64)
            waves.append(float(down @ small @ across))
    bits = np.array(waves) > np.median(waves)
    return int("".join("1" if bit else "0" for bit in bits), 2)


@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (50, 37), (9, 120)])
def test_the_hash_is_that_of_its_definition(shape: tuple[int, int]) -> None:
    gray = np.random.default_rng(3).integers(0, 255, shape).astype(np.uint8)
    assert (hash_of(gray) ^ slow_hash(gray)).bit_count() <= 1  # a value at the median may fall on either side


def test_brightness_contrast_and_depth_do_not_change_the_hash() -> None:
    gray = np.random.default_rng(0).integers(40, 120, (64, 64)).astype(np.uint8)
    hashed = hash_of(gray)
    assert hash_of(gray + 30) == hashed
    assert (hash_of(gray * 2) ^ hashed).bit_count() <= 2
    assert hash_of(gray.astype(np.uint16) * 256) == hashed
    assert (hash_of(255 - gray) ^ hashed).bit_count() >= 60
    assert (hash_of(np.random.default_rng(1).integers(40, 120, (64, 64)).astype(np.uint8)) ^ hashed).bit_count() > 16


@pytest.mark.parametrize("side", [1, 5, 31])
def test_tiny_pictures_have_a_hash(side: int) -> None:
    assert 0 <= hash_of(np.full((side, side), 7, np.uint8)) < 2**64


def part(
    folder: Path, name: str, pictures: list[np.ndarray], *, clip: str, split: str = "train", frame: int = 0
) -> ShardFolder:
    """A part of one clip whose samples are these pictures."""
    entries: list[IndexEntry]
    target = folder / name
    target.mkdir(parents=True)
    with open_shard(target, f"t-{clip}-000000.tar", image_format="jpg") as handle:
        for number, each in enumerate(pictures):
            handle.writer.add(clip, frame + number, number, encode(each, "jpg"), b"{}", size_px=(128, 128))
    entries, info = handle.writer.entries, handle.info
    assert isinstance(info, ShardInfo)
    facts = ClipFacts(
        clip_id=clip, scene="city", weather="clear", modality="visible" if "day" in clip else "infrared", time_of_day="night",
        time_base="1/25", nominal_fps=25.0, frame_step=1, clip_frames=frame + len(pictures),
    )  # fmt: skip
    index = from_entries(
        clip_id=clip,
        frame_step=1,
        image_format="jpg",
        shards=[(info, entries)],
        run_ids=np.zeros(len(entries), np.int32),
    )
    return write_folder(folder, name, index, {clip: facts}, split=split)


def scene(seed: int, *, shift: int = 0) -> np.ndarray:
    """u8 [128, 128, 1]: soft blocks; another seed is another place."""
    blocks = np.random.default_rng(seed).integers(20, 235, (9, 9)).astype(np.float64)
    grown = np.kron(blocks, np.ones((16, 16)))
    return grown[shift : shift + 128, :128].astype(np.uint8)[:, :, None]


def test_a_run_that_repeats_another_names_it_sample_by_sample(tmp_path: Path) -> None:
    train = part(tmp_path, "infrared-train", [scene(1), scene(2), scene(3), scene(4)], clip="city_clear")
    test = part(tmp_path, "infrared-test", [scene(3), scene(9), scene(2), scene(1)], clip="city_overcast", split="test")
    found = similarity.find([test, train])
    assert found.dup_of[1].tolist() == [b"", b"", b"", b""]
    assert found.dup_of[0].tolist() == [b"city_clear_00000002", b"", b"city_clear_00000001", b"city_clear_00000000"]
    (run,) = found.runs
    assert (run.part, run.first_key, run.num_samples, run.num_near) == ("infrared-test", "city_overcast_00000000", 4, 3)
    assert (run.of_part, run.of_first_key) == ("infrared-train", "city_clear_00000000")
    (leak,) = found.leakage
    assert (leak.modality, leak.distance_bits, leak.num_test, leak.num_near) == ("infrared", 0, 4, 3)
    assert leak.test_key == "city_overcast_00000000"
    assert leak.train_key == "city_clear_00000002"


def test_a_run_of_which_less_than_half_is_known_is_no_duplicate_but_leaks(tmp_path: Path) -> None:
    train = part(tmp_path, "infrared-train", [scene(1), scene(2)], clip="city_clear")
    test = part(tmp_path, "infrared-test", [scene(1), scene(7), scene(8)], clip="city_overcast", split="test")
    found = similarity.find([train, test])
    assert found.runs == ()
    assert not any(dup.any() for dup in found.dup_of)
    assert found.leakage[0].num_near == 1


def test_the_distance_is_the_smallest_over_all_pairs(tmp_path: Path) -> None:
    train_pictures, test_pictures = [scene(n) for n in range(5)], [scene(n, shift=3) for n in range(2, 4)]
    train = part(tmp_path, "infrared-train", train_pictures, clip="city_clear")
    test = part(tmp_path, "infrared-test", test_pictures, clip="city_overcast", split="test")
    hashes = similarity.perceptual_hashes([train, test])
    pairs = {(a, b): (int(hashes[0][a]) ^ int(hashes[1][b])).bit_count() for a in range(5) for b in range(2)}
    (leak,) = similarity.find([train, test]).leakage
    assert leak.distance_bits == min(pairs.values()) > 0
    assert leak.num_near == sum(min(pairs[a, b] for a in range(5)) <= NEAR_BITS for b in range(2))


def test_modalities_are_not_compared_and_a_set_without_test_samples_does_not_leak(tmp_path: Path) -> None:
    night = part(tmp_path, "infrared-train", [scene(1), scene(2)], clip="city_clear")
    day = part(tmp_path, "visible-test", [scene(1), scene(2)], clip="city_day", split="test")
    found = similarity.find([night, day])
    assert (found.runs, found.leakage) == ((), ())
    assert similarity.find([night]).leakage == ()


def test_what_repeats_inside_a_clip_stays_named(tmp_path: Path) -> None:
    alone = part(tmp_path, "x", [scene(1), scene(1)], clip="city_clear")
    named = np.array([b"", b"city_clear_00000000"])
    (dup_of,) = similarity.find([replace(alone, index=replace(alone.index, dup_of=named))]).dup_of
    assert dup_of.tolist() == named.tolist()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    night = part(tmp_path, "infrared-train", [scene(1), scene(2)], clip="city_clear")
    (shard,) = (tmp_path / "infrared-train").glob("*.tar")
    data = bytearray(shard.read_bytes())
    data[int(night.index.offset[1]) + 2 : int(night.index.offset[1]) + 400] = bytes(398)
    shard.write_bytes(data)
    with pytest.raises(ImageError, match="city_clear_00000001: damaged jpg"):
        similarity.find([night])


def test_extracted_clips_have_a_hash_for_every_sample(extracted: Path) -> None:
    counted: list[int] = []
    (hashes,) = similarity.perceptual_hashes([open_folder(extracted, "city_clear")], counted.append)
    assert (len(hashes), sum(counted)) == (50, 50)
    assert len({*hashes.tolist()}) > 25


@pytest.mark.parametrize("side", [64, 250, 512])
def test_a_jpg_unpacked_at_a_fraction_of_its_size_has_nearly_the_hash_of_the_whole(side: int) -> None:
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(np.pi * (a * x + b * y + phase)) for a, b, phase in np.random.default_rng(5).uniform(1, 8, (12, 3))]
    data = encode((128 + 10 * sum(waves)).astype(np.uint8)[:, :, None], "jpg")
    small = decode_small(data, 64)
    assert min(small.shape) >= 63
    assert side < 250 or max(small.shape) <= side // 2
    assert (hash_of(small) ^ hash_of(decode(data, "gray")[:, :, 0])).bit_count() <= 2
