import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from synthetic import Shelf

from infraredcity.video import probe
from roma.cli import cli
from roma.config.schema import DataConfig, GeneratorConfig, TrainConfig
from roma.data.batches import to_bytes
from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError, EvaluationError
from roma.inference.translator import open_translator
from roma.models.generators.build import GENERATORS, build_generator
from roma.training.snapshot import Snapshot, save_snapshot

CPU = torch.device("cpu")
FACTS = Preprocessing(is_known=True, tone="percentile", polarity="black-hot", masks=((1, 2, 3, 4),), clip_size=(64, 48))


@pytest.fixture(scope="module", params=sorted(GENERATORS))
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GeneratorConfig(architecture=request.param, width=4, num_blocks=1, init_gain=1.0)
    torch.manual_seed(0)
    generator = build_generator(config)
    path = tmp_path_factory.mktemp(request.param) / "snapshot.pt"
    train = TrainConfig(generator=config, data=DataConfig(load_size_px=64, crop_size_px=64))
    save_snapshot(path, Snapshot(weights=generator.state_dict(), step=7, config=train, preprocessing=FACTS))
    return path


def export(snapshot: Path, *options: str) -> Path:
    out = snapshot.with_name(f"model{''.join(options)}.onnx")
    if not out.exists():
        # In a process of its own: the types that tests check of every argument do not know the sizes that are left open.
        words = ["export", str(snapshot), "-o", str(out), *options]
        subprocess.run([sys.executable, "-c", "from roma.cli import main; main()", *words], check=True)
    return out


@pytest.fixture(scope="module")
def model(snapshot: Path) -> Path:
    return export(snapshot)


def frames_of(count: int, height: int, width: int) -> torch.Tensor:
    draw = np.random.default_rng(height)
    levels = draw.integers(0, 256, (count, 1, height, width))
    return torch.from_numpy(levels).float().div(127.5).sub(1).repeat(1, 3, 1, 1)


@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 64), (3, 48, 96), (1, 128, 32)])
def test_onnxruntime_shows_what_torch_shows_at_any_size(
    snapshot: Path, model: Path, count: int, height: int, width: int
):
    translator, exported = open_translator(snapshot, CPU), open_translator(model, CPU)
    frames = frames_of(count, height, width)
    with torch.inference_mode():
        difference = to_bytes(translator.generator(frames)).int() - to_bytes(exported.generator(frames)).int()
    assert difference.abs().max() <= 1


def test_the_file_says_what_the_snapshot_says(snapshot: Path, model: Path):
    expected, found = open_translator(snapshot, CPU), open_translator(model, CPU)
    assert found.preprocessing == FACTS
    assert found.snapshot.config == expected.snapshot.config
    assert (found.snapshot.step, found.side_px) == (7, 64)
    for size in ((100, 50), (20, 20), (640, 480)):
        assert found.working_size(*size) == expected.working_size(*size)
    onnx.checker.check_model(str(model), full_check=True)
    assert onnx.load(str(model)).opset_import[0].version >= 17


def test_an_exported_file_translates_a_video(model: Path, tmp_path: Path, shelf: Shelf):
    words = ["translate", str(model), str(shelf.gray), "-o", str(tmp_path / "day.mp4"), "--stop", "5"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert probe(tmp_path / "day.mp4").num_frames == 5


def test_half_precision_keeps_its_norms_and_is_near(snapshot: Path):
    half = export(snapshot, "--half")
    translator, exported = open_translator(snapshot, CPU), open_translator(half, CPU)
    frames = frames_of(1, 64, 64)
    with torch.inference_mode():
        difference = to_bytes(translator.generator(frames)).int() - to_bytes(exported.generator(frames)).int()
    assert difference.abs().float().mean() < 1.5
    kinds = {each.data_type for each in onnx.load(str(half)).graph.initializer if len(each.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}  # kernels of convolutions


def test_a_graph_of_levels_takes_and_gives_bytes(snapshot: Path):
    if snapshot.parent.name.startswith("resnet"):
        pytest.skip("the graph around the network is the same for all")
    out = export(snapshot, "--levels")
    levels = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 1), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"frames": levels})
    expected = open_translator(snapshot, CPU).translate(levels, size=(64, 48))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    with pytest.raises(CheckpointError, match="takes levels, for other programs"):
        open_translator(out, CPU)


def test_what_is_no_exported_file_is_one_line(model: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file"):
        open_translator(tmp_path / "none.onnx", CPU)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match=r"text\.onnx: no ONNX model that can be opened"):
        open_translator(tmp_path / "text.onnx", CPU)
    stranger = onnx.load(str(model))
    (entry,) = (each for each in stranger.metadata_props if each.key == "roma")
    facts = json.loads(entry.value)
    for changes, message in (
        ({"format": "roma-onnx-0"}, "format is 'roma-onnx-0', expected"),
        ({"side_multiple": 0}, "not an ONNX file of roma export"),
        ({"preprocessing": {"tone": "x"}}, "not an ONNX file of roma export"),
        ({"step": None}, "not an ONNX file of roma export"),
    ):
        entry.value = json.dumps(facts | changes)
        onnx.save(stranger, str(tmp_path / "x.onnx"))
        with pytest.raises(CheckpointError, match=message):
            open_translator(tmp_path / "x.onnx", CPU)
    del stranger.metadata_props[:]
    onnx.save(stranger, str(tmp_path / "x.onnx"))
    with pytest.raises(CheckpointError, match="not an ONNX file of roma export"):
        open_translator(tmp_path / "x.onnx", CPU)
    with pytest.raises(EvaluationError, match="cannot be exported again"):
        open_translator(model, CPU).network()
    result = CliRunner().invoke(cli, ["export", str(model), "-o", str(tmp_path / "x.pb")])
    assert "must end in .onnx" in result.output
