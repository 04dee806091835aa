import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av  # noqa: TID251 - files as no writer of ours makes them
import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from roma.cli import cli
from roma.config.schema import DataConfig, GeneratorConfig, TrainConfig
from roma.errors import EvaluationError
from roma.evaluation.evaluate import REPORT_NAME, evaluate_shards, evaluate_video, read_report
from roma.evaluation.measures import MEASURES
from roma.inference.sinks import VideoOptions, open_video
from roma.inference.sources import Frame
from roma.inference.translator import Translator, open_translator
from roma.models.generators.resnet import ResNetGenerator
from roma.training.snapshot import Snapshot, save_snapshot

SIDE = 16
WIDTH, HEIGHT = 48, 32  # three and two pixels to one that is compared
NUM_FRAMES = 7


def write_video(path: Path, num_frames: int, make: Callable[[int], np.ndarray]) -> Path:
    """`make` gives frame i, u8 [HEIGHT, WIDTH, 3]."""
    path.parent.mkdir(exist_ok=True)
    with open_video(path, VideoOptions(quality=1)) as sink:
        for index in range(num_frames):
            frame = Frame(picture=np.zeros((1, 1, 1), np.uint8), name=str(index), pts=index, time_base=Fraction(1, 25))
            sink.add(make(index), frame)
    return path


def steps(level: int) -> Callable[[int], np.ndarray]:
    """Flat frames whose gray level tells their number."""
    return lambda index: np.full((HEIGHT, WIDTH, 3), level + 20 * index, np.uint8)


def stripes(index: int) -> np.ndarray:
    """Gray columns that move right by six pixels a frame, which are two at the size compared."""
    columns = 128 + 60 * np.sin((np.arange(WIDTH) - 6 * index) / 4)
    return np.broadcast_to(columns.astype(np.uint8)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def write_flow(folder: Path, frames: range, *, right: int) -> Path:
    """The same flow to the right for each of some frames."""
    folder.mkdir(parents=True)
    picture = np.full((HEIGHT, WIDTH, 3), 2**15, np.uint16)  # OpenCV writes B, G, R
    picture[..., 0], picture[..., 2] = 1, 2**15 + 64 * right
    for index in frames:
        cv2.imwrite(str(folder / f"{index:06d}.png"), picture)
    return folder


@pytest.fixture
def snapshot_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights = ResNetGenerator(width=4, num_blocks=1, init_gain=1.0).state_dict()
    config = TrainConfig(
        generator=GeneratorConfig(width=4, num_blocks=1), data=DataConfig(load_size_px=SIDE, crop_size_px=SIDE)
    )
    save_snapshot(tmp_path / "snapshot.pt", Snapshot(weights=weights, step=5, config=config))
    return tmp_path / "snapshot.pt"


@pytest.fixture
def translator(snapshot_file: Path) -> Translator:
    return open_translator(snapshot_file, torch.device("cpu"))


def test_a_folder_of_pictures_is_a_clip_of_the_folders_name(translator: Translator, tmp_path: Path):
    write_video(tmp_path / "truth" / "traina.mp4", NUM_FRAMES, steps(30))
    (tmp_path / "trainA").mkdir()
    for index in range(NUM_FRAMES):
        cv2.imwrite(str(tmp_path / "trainA" / f"night {index + 8}.png"), steps(0)(index))  # 10 comes behind 9
    report = evaluate_shards(translator, (str(tmp_path / "trainA"),), tmp_path / "truth", tmp_path / "out")
    assert (report.num_frames, report.num_without_truth) == (7, 0)
    assert report.infrared["mae"] == pytest.approx(30, abs=1.5)


def test_evaluation_of_a_video_measures_what_translate_gives(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", NUM_FRAMES, steps(0))
    truth = write_video(tmp_path / "truth.mp4", NUM_FRAMES, steps(30))
    report = evaluate_video(translator, source, truth, tmp_path / "out")
    assert (report.num_frames, report.num_without_truth, report.size_px) == (7, 0, 16)
    assert report.infrared["mae"] == pytest.approx(30, abs=1.5)  # the truth is 30 levels brighter
    assert report.infrared["psnr_db"] == pytest.approx(18.59, abs=0.5)  # 20 log10(255 / 30)
    assert report.infrared["chroma"] == pytest.approx(0, abs=1e-5)
    assert report.translated["mae"] != report.infrared["mae"]
    assert (report.truth["psnr_db"], report.truth["edge_correlation"]) == (None, None)
    assert read_report(tmp_path / "out") == report
    assert len(report.pictures) == 6
    assert all((tmp_path / "out" / name).is_file() for names in report.pictures for name in names)


def write_counts(path: Path) -> Path:
    """Two frames of 16 bits."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray16le"
        for index in range(2):
            picture = np.full((HEIGHT, WIDTH), 7000 + index, np.uint16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray16le")))
        container.mux(stream.encode(None))
    return path


def evaluate_words(snapshot: Path, video: Path, truth: Path, out: Path) -> list[str]:
    """The command line that evaluates a video on the CPU."""
    return [
        "evaluate",
        str(snapshot),
        "--video",
        str(video),
        "--truth",
        str(truth),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]


@pytest.mark.parametrize("deep", ["in", "truth"])
def test_counts_are_refused_as_input_and_as_truth_before_anything_is_written(
    snapshot_file: Path, tmp_path: Path, deep: str
):
    levels = write_video(tmp_path / "levels.mp4", 2, steps(0))
    source = write_counts(tmp_path / "in.mkv") if deep == "in" else levels
    truth = write_counts(tmp_path / "truth.mkv") if deep == "truth" else levels
    result = CliRunner().invoke(cli, evaluate_words(snapshot_file, source, truth, tmp_path / "out"))
    assert isinstance(result.exception, EvaluationError)
    assert f"{deep}.mkv: holds counts" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_truth_of_counts_is_refused_for_shards_too(translator: Translator, domains: tuple[str, str], tmp_path: Path):
    write_counts(tmp_path / "truth" / "night.mkv")
    with pytest.raises(EvaluationError, match=r"night\.mkv: holds counts"):
        evaluate_shards(translator, (domains[0],), tmp_path / "truth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_day_frames_and_flows_what_needs_them_is_left_out(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", 2, steps(0))
    report = evaluate_video(translator, source, source, tmp_path / "out")
    assert [name for name, _ in report.methods] == ["translated", "infrared", "truth"]
    assert {scores["warping_error"] for _, scores in report.methods} == {None}


def test_day_frames_bring_two_baselines(translator: Translator, domains: tuple[str, str], tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", NUM_FRAMES, stripes)
    report = evaluate_video(translator, source, source, tmp_path / "out", visible=(domains[1],))
    assert [name for name, _ in report.methods] == ["translated", "infrared", "reinhard", "mean_day", "truth"]
    assert report.num_day_frames == 13
    assert report.reinhard is not None
    assert report.mean_day is not None
    # The truth is the infrared itself here: tinting it moves no edge, and the mean picture has other ones.
    assert report.infrared["edge_correlation"] == pytest.approx(1, abs=0.01)
    assert report.reinhard["edge_correlation"] == pytest.approx(1, abs=0.05)
    assert abs(report.mean_day["edge_correlation"] or 1) < 0.5
    assert report.reinhard["chroma"] is not None
    assert report.reinhard["chroma"] > 5
    assert read_report(tmp_path / "out") == report


def test_flow_brings_the_warping_error_of_frames_in_one_batch_and_across_two(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", NUM_FRAMES, stripes)
    flow = write_flow(tmp_path / "flow", range(NUM_FRAMES - 1), right=6)
    report = evaluate_video(translator, source, source, tmp_path / "out", flow=flow)
    assert report.num_flow_pairs == 6  # batches hold four
    still = write_flow(tmp_path / "still", range(NUM_FRAMES - 1), right=0)
    unmoved = evaluate_video(translator, source, source, tmp_path / "unmoved", flow=still)
    for right, wrong in ((report.truth, unmoved.truth), (report.infrared, unmoved.infrared)):
        assert right["warping_error"] is not None
        assert wrong["warping_error"] is not None
        assert right["warping_error"] < 0.002
        assert wrong["warping_error"] > 0.01
    assert report.translated["warping_error"] is not None
    assert report.translated["warping_error"] != report.truth["warping_error"]


def test_pairs_without_a_flow_are_not_counted(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", NUM_FRAMES, stripes)
    flow = write_flow(tmp_path / "flow", range(2, 4), right=6)
    assert evaluate_video(translator, source, source, tmp_path / "out", flow=flow).num_flow_pairs == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"empty: no flow joins two compared frames; .*000000\.png"):
        evaluate_video(translator, source, source, tmp_path / "out", flow=tmp_path / "empty")


def test_a_truth_of_another_length_is_refused(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", 7, steps(0))
    truth = write_video(tmp_path / "truth.mp4", 4, steps(0))
    with pytest.raises(EvaluationError, match=r"holds 4 frames, .* 7; a truth shows the same moments"):
        evaluate_video(translator, source, truth, tmp_path / "out")


def test_shards_meet_their_truth_and_flow_by_frame_index(
    translator: Translator, domains: tuple[str, str], tmp_path: Path
):
    (tmp_path / "truth").mkdir()
    with pytest.raises(EvaluationError, match=r"holds no night\.<ext>"):
        evaluate_shards(translator, (domains[0],), tmp_path / "truth", tmp_path / "out")
    write_video(tmp_path / "truth" / "night.mp4", 12, stripes)
    write_flow(tmp_path / "flow" / "night", range(5, 12), right=6)
    report = evaluate_shards(
        translator, (domains[0],), tmp_path / "truth", tmp_path / "out", flow=tmp_path / "flow", visible=(domains[1],)
    )
    assert (report.num_frames, report.num_without_truth) == (12, 8)  # 20 frames, a truth of 12
    assert report.num_flow_pairs == 6  # 5 to 6, ..., 10 to 11; what follows 11 has no truth
    assert report.truth["warping_error"] is not None
    assert report.truth["warping_error"] < 0.002


def test_an_evaluation_of_an_older_format_or_none_is_one_line(tmp_path: Path):
    with pytest.raises(EvaluationError, match=r"evaluation\.json: not a readable evaluation .* run roma evaluate"):
        read_report(tmp_path)
    old = {"source": "a", "translated": {"psnr_db": 1, "ssim": 1, "mae": 1}}
    (tmp_path / REPORT_NAME).write_text(json.dumps(old))
    with pytest.raises(EvaluationError, match=r"format is None, expected 'roma-evaluation-2'; run roma evaluate again"):
        read_report(tmp_path)
    huge = f'{{"format": "roma-evaluation-2", "translated": {{"psnr_db": 1{400 * "0"}}}}}'
    for text in (huge, "[1]", '{"format": "roma-evaluation-2"}', "no json"):
        (tmp_path / REPORT_NAME).write_text(text)
        with pytest.raises(EvaluationError, match="not a readable evaluation"):
            read_report(tmp_path)


def test_the_command_prints_all_methods_and_targets(snapshot_file: Path, domains: tuple[str, str], tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", 3, stripes)
    flow = write_flow(tmp_path / "flow", range(2), right=6)
    words = ["evaluate", str(snapshot_file), "--video", str(source), "--truth", str(source), "--device", "cpu"]
    words += ["--out", str(tmp_path / "out")]
    everything = [*words, "--visible", domains[1], "--flow", str(flow)]
    result = CliRunner().invoke(cli, everything, catch_exceptions=False)
    lines = result.stdout.splitlines()
    heading = lines[0].split()
    assert heading == ["PSNR", "dB", "SSIM", "MAE", "edges", "a*b*", "dist", "chroma", "warping"]
    assert [line.split()[0] for line in lines[1:6]] == ["translated", "infrared", "reinhard", "mean_day", "truth"]
    assert lines[5].split()[1:6] == ["-"] * 5
    assert len({len(line) for line in lines[:6]}) == 1
    assert len(lines) == 6 + 1 + 1 + 9
    assert all(" met by " in line or " missed by " in line for line in lines[8:])
    assert "2 pairs with flow" in result.stderr
    as_json = json.loads(CliRunner().invoke(cli, [*everything, "--json"], catch_exceptions=False).stdout)
    assert len(as_json["targets"]) == 9
    assert as_json["num_frames"] == 3
    short = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "reinhard and mean_day were left out: they need day frames (--visible)." in short.stderr
    assert "The warping error was left out: it needs flows (--flow)." in short.stderr
    assert "mean_day" not in short.stdout


def test_a_new_measure_is_one_entry_of_the_table(snapshot_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    more = (*MEASURES, *(dataclasses.replace(MEASURES[0], name=f"new_{n}", heading=f"again {n}") for n in range(2)))
    for module in ("evaluation.evaluate", "report.page"):
        monkeypatch.setattr(f"roma.{module}.MEASURES", more)
    source = write_video(tmp_path / "in.mp4", 2, steps(0))
    words = evaluate_words(snapshot_file, source, source, tmp_path / "out")
    heading, translated, *_ = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert heading.endswith("warping  again 0  again 1")
    assert len(heading) == len(translated)
    assert translated.split()[1] == translated.split()[-1]
    written = read_report(tmp_path / "out").translated
    assert written["new_1"] == written["psnr_db"]
