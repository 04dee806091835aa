import re
from pathlib import Path

import pytest
import torch

from roma import trainer
from roma.config import TrainConfig
from roma.distributed import World
from roma.errors import CheckpointError
from roma.report import write_page


def test_page_is_one_file_that_needs_nothing_else(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path / "run", World(rank=0, world_size=1, device=torch.device("cpu")))
    (tmp_path / "clip.mp4").write_bytes(b"not looked at")
    page = tmp_path / "page.html"
    write_page(
        page, tmp_path / "run", videos=[("A <night>", tmp_path / "clip.mp4")], commands=["roma train --set 'a<b'"]
    )
    text = page.read_text()
    assert "A &lt;night&gt;" in text
    assert "Departs from the published method in: loss.similarity self" in text
    assert "roma train --set &#x27;a&lt;b&#x27;" in text
    assert text.count("<svg") == len(re.findall("<figcaption>", text)) > 5
    assert {source[:5] for source in re.findall(r'src="([^"]*)', text)} == {"data:"}
    assert "http" not in text


def test_a_folder_without_a_run_is_one_line(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"snapshot\.pt: no such file"):
        write_page(tmp_path / "page.html", tmp_path)
