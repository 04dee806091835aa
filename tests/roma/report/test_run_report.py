import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roma.config.schema import TrainConfig
from roma.errors import CheckpointError, EvaluationError
from roma.evaluation.evaluate import EvalReport, Scores
from roma.evaluation.measures import MEASURES
from roma.evaluation.targets import judge
from roma.report.page import left_out, score_rows, target_rows, write_page
from roma.training import trainer
from roma.training.metrics import save_picture
from roma.world.world import World


def scores(**values: float) -> Scores:
    """Give scores of the measures named here, and none of the others."""
    return {measure.name: values.get(measure.name) for measure in MEASURES}


MADE_UP = EvalReport(
    source="night", compared_with="day", visible="shards", flow="flow", snapshot_step=8, size_px=16, num_frames=40,
    num_without_truth=2, num_day_frames=99, num_flow_pairs=39, weights="none",
    pictures=(("n_7-infrared.png", "n_7-translated.png", "n_7-truth.png"),),
    translated=scores(psnr_db=15.0, ssim=0.5, mae=30.0, edge_correlation=0.6, ab_distance=12.5, chroma=10.0,
                      warping_error=0.0123),
    infrared=scores(psnr_db=10.0, ssim=0.3, mae=60.0, edge_correlation=0.7, ab_distance=14.0, chroma=0.0,
                    warping_error=0.002),
    reinhard=scores(psnr_db=9.0, ssim=0.3, mae=70.0, edge_correlation=0.5, ab_distance=11.0, chroma=8.0,
                    warping_error=0.002),
    mean_day=scores(psnr_db=16.0, ssim=0.5, mae=25.0, edge_correlation=0.2, ab_distance=9.0, chroma=9.0,
                    warping_error=0.001),
    truth=scores(chroma=20.0, warping_error=0.005),
)  # fmt: skip
WITHOUT = replace(MADE_UP, reinhard=None, mean_day=None, visible="", flow="", num_without_truth=0)


@pytest.fixture
def run(config: TrainConfig, tmp_path: Path) -> Path:
    trainer.train(config, tmp_path / "run", World(rank=0, world_size=1, device=torch.device("cpu")))
    return tmp_path / "run"


def test_page_is_one_file_with_three_videos_tables_and_nothing_from_elsewhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "clip.mp4").write_bytes(b"not looked at")
    for names in MADE_UP.pictures:
        for name in names:
            save_picture(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("roma.report.page.read_report", lambda _: MADE_UP)
    page = tmp_path / "page.html"
    write_page(
        page,
        run,
        evaluation=tmp_path,
        videos=[(caption, tmp_path / "clip.mp4") for caption in ("A <night>", "Translated", "Truth")],
        commands=["roma train --set 'a<b'"],
    )
    text = page.read_text()
    videos = re.findall(r"<video ([^>]*)>", text)
    assert len(videos) == 3
    assert all({"controls", "autoplay", "loop", "muted", "playsinline"} <= set(video.split()) for video in videos)
    row = text.partition('<div class="row"')[2].partition("</div>")[0]
    assert row.count("<video") == row.count("<figcaption>") == 3
    assert text.count("<script>") == 1
    assert "A &lt;night&gt;" in text
    assert "<li><code>loss.similarity self</code></li>" in text
    assert "roma train --set &#x27;a&lt;b&#x27;" in text
    for heading in (measure.heading for measure in MEASURES):
        assert f'<th scope="col">{heading}</th>' in text
    assert "<td>15.00</td><td>0.500</td><td>30.0</td><td>0.600</td><td>12.5</td><td>10.0</td><td>0.01230</td>" in text
    assert text.count('<th scope="row">') == 5 + 9
    assert "7 of 9 met." in text
    assert "missed by 0.100" in text  # edges, .6 where infrared has .7
    assert "missed by 0.00230" in text  # flicker, .0123 where .01 was the most
    assert "2 frames without truth were left out." in text
    assert text.count("<svg") == text.partition('class="curves"')[2].count("<figcaption>") > 5
    sources = re.findall(r'src="([^"]*)', text)
    assert {source[:5] for source in sources} == {"data:"}
    assert len(sources) == 3 + 3 + 1  # videos, stills, the training's sample grid
    assert re.findall(r"<img (?![^>]*alt=)", text) == []
    assert "http" not in text.replace("http-equiv", "")


def test_a_page_without_evaluation_and_videos_needs_no_script(run: Path, tmp_path: Path):
    write_page(tmp_path / "page.html", run)
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "<video" not in text
    assert "<table" not in text


def test_a_video_that_no_browser_plays_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(EvaluationError, match=r"night\.mkv: the page shows \.mp4 videos"):
        write_page(tmp_path / "page.html", run, videos=[("Night", tmp_path / "night.mkv")])
    with pytest.raises(EvaluationError, match=r"night\.mp4: cannot be read for the page"):
        write_page(tmp_path / "page.html", run, videos=[("Night", tmp_path / "night.mp4")])


def test_tables_hold_what_was_measured_and_say_what_was_not():
    rows = score_rows(WITHOUT)
    assert [row[0] for row in rows] == ["", "translated", "infrared", "truth"]
    assert rows[3] == ("truth", "-", "-", "-", "-", "-", "20.0", "0.00500")
    assert len(left_out(WITHOUT)) == 2
    assert left_out(MADE_UP) == ["2 frames without truth were left out."]
    rows = target_rows(judge(MADE_UP))
    assert rows[1] == ("PSNR", "at least 5 dB above infrared", "15.00", "15.00", "met by 0.00")
    assert rows[5] == ("edge correlation", "at least that of infrared", "0.600", "0.700", "missed by 0.100")


def test_a_folder_without_a_run_is_one_line(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"snapshot\.pt: no such file"):
        write_page(tmp_path / "page.html", tmp_path)
