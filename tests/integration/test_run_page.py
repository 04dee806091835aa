"""The page about a run whose folder comes from a stranger: in a browser nothing of it runs, and no other file gets into it."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roma.config.overlay import resolve
from roma.errors import EvaluationError
from roma.evaluation.evaluate import REPORT_FORMAT, REPORT_NAME
from roma.report.page import write_page
from roma.training import trainer
from roma.training.metrics import save_picture
from roma.world.world import World
from tests.roma.conftest import SMALL, write_shards
from tests.roma.report.test_run_report import MADE_UP

HOSTILE = "\"><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run-page")
    shards = [
        f"data.infrared={write_shards(folder / 'infrared', 'night', num_frames=12, channels=1, seed=1)}/*.tar",
        f"data.visible={write_shards(folder / 'visible', 'day', num_frames=12, channels=3, seed=2)}/*.tar",
    ]
    config = resolve("tiny", mode=None, config_file=None, settings=[*shards, *SMALL, "schedule.total_steps=4"])
    trainer.train(config, folder / "run", World(rank=0, world_size=1, device=torch.device("cpu")))
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluated(folder: Path, **changes: Any) -> Path:
    """A folder as `roma evaluate` writes it, some of what it says changed."""
    folder.mkdir(exist_ok=True)
    for name in MADE_UP.pictures[0]:
        save_picture(folder / name, np.zeros((4, 4, 3), np.uint8))
    values = {"format": REPORT_FORMAT, **asdict(MADE_UP), **changes}
    (folder / REPORT_NAME).write_text(json.dumps(values))
    return folder


def title_of(browser: Any, page: Path) -> tuple[str, list[str]]:
    """What the tab is called once everything in the page had its time, and all that the browser complained about."""
    complaints: list[str] = []
    context = browser.new_context(offline=True)
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(page.as_uri())
    opened.wait_for_timeout(300)
    title = str(opened.title())
    context.close()
    return title, complaints


def test_names_and_words_of_a_hostile_run_stay_text(run: Path, tmp_path: Path, browser: Any):
    grid = sorted((run / "samples").iterdir())[-1]
    shutil.copy(grid, run / "samples" / 'step-9"><img src=x onerror="document.title=1">.png')
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1, HOSTILE: 1.0}) + "\n")
        file.write(json.dumps({"step": 1, "loss": HOSTILE}) + "\n")
        file.write(json.dumps({"step": 1, "loss": 10**400}) + "\n")
    evaluation = evaluated(tmp_path / "evaluation", weights=f"none{HOSTILE}\u202e")
    (tmp_path / "a.mp4").write_bytes(b"not looked at")
    page = tmp_path / "page.html"
    write_page(
        page,
        run,
        evaluation=evaluation,
        videos=[(HOSTILE, tmp_path / "a.mp4")],
        commands=[HOSTILE],
        title=f"Page {HOSTILE}",
    )
    text = page.read_text()
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert r"\u202e" in text
    assert f'alt="sample grid of {grid.stem}"' in text
    title, complaints = title_of(browser, page)
    assert title == f"Page {HOSTILE}"
    assert complaints == []


def test_the_policy_lets_a_strangers_script_style_and_picture_do_nothing(run: Path, tmp_path: Path, browser: Any):
    page = tmp_path / "page.html"
    (tmp_path / "a.mp4").write_bytes(b"not looked at")
    for videos in ([], [("Night", tmp_path / "a.mp4")]):
        write_page(page, run, videos=videos)
        assert title_of(browser, page) == ("Night infrared as day", [])
        taken = "document.title='taken'"
        slipped = f"<script>{taken}</script><img src=file:///etc/none onerror={taken}><style>h1{{}}</style>"
        page.write_text(page.read_text().replace("<h1>", f"{slipped}<h1>", 1))
        title, complaints = title_of(browser, page)
        assert title == "Night infrared as day"
        assert len([text for text in complaints if "Content Security Policy" in text]) >= 3


def test_the_script_of_the_page_is_the_one_that_its_policy_allows(run: Path, tmp_path: Path, browser: Any):
    page = tmp_path / "page.html"
    (tmp_path / "a.mp4").write_bytes(b"no video")
    write_page(page, run, videos=[("Night", tmp_path / "a.mp4")])
    context = browser.new_context(offline=True)
    opened = context.new_page()
    opened.goto(page.as_uri())
    opened.wait_for_selector("#unplayable", state="visible")  # the script shows it, since this is no video
    assert opened.evaluate("getComputedStyle(document.querySelector('.curves')).display") == "grid"
    context.close()


@pytest.mark.parametrize("name", ["../private.png", "{private}/private.png", "..", "a.mp4", "sub/a.png", "a\0.png", 7])
def test_an_evaluation_names_pictures_of_its_own_folder_alone(run: Path, tmp_path: Path, name: Any):
    (tmp_path / "private.png").write_bytes(b"private")
    told = name.format(private=tmp_path) if isinstance(name, str) else name
    folder = evaluated(tmp_path / "evaluation", pictures=[[told, told, told]])
    with pytest.raises(
        EvaluationError, match=r"evaluation\.json: not a readable evaluation \(.*(name of a png|pictures\[0\])"
    ):
        write_page(tmp_path / "page.html", run, evaluation=folder)


def test_a_link_in_a_folder_of_pictures_is_not_followed(run: Path, tmp_path: Path):
    (tmp_path / "private.png").write_bytes(b"private")
    folder = evaluated(tmp_path / "evaluation")
    (folder / MADE_UP.pictures[0][1]).unlink()
    (folder / MADE_UP.pictures[0][1]).symlink_to(tmp_path / "private.png")
    with pytest.raises(
        EvaluationError, match=r"n_7-translated\.png: cannot be read for the page \(a link, expected a file\)"
    ):
        write_page(tmp_path / "page.html", run, evaluation=folder)
    (run / "samples" / "step-99999999.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(
        EvaluationError, match=r"step-99999999\.png: cannot be read for the page \(a link, expected a file\)"
    ):
        write_page(tmp_path / "page.html", run)


@pytest.mark.timeout(60)
def test_a_pipe_in_a_folder_of_pictures_is_not_waited_for(run: Path, tmp_path: Path):
    os.mkfifo(run / "samples" / "step-99999999.png")
    with pytest.raises(EvaluationError, match=r"step-99999999\.png: cannot be read for the page \(a pipe"):
        write_page(tmp_path / "page.html", run)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": "<b>"},
        {"translated": {"psnr_db": "<b>"}},
        {"source": 7},
        {"pictures": 7},
        {"truth": 7},
    ],
)
def test_an_evaluation_of_other_types_is_one_line(run: Path, tmp_path: Path, changes: dict[str, Any]):
    folder = evaluated(tmp_path / "evaluation", **changes)
    with pytest.raises(EvaluationError, match=r"evaluation\.json: not a readable evaluation"):
        write_page(tmp_path / "page.html", run, evaluation=folder)
