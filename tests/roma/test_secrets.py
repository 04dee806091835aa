"""Passwords and tokens in the URLs of shards: whoever trains from them finds none in what is shown, stored or sent."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from roma import cli
from roma.cli import pretrain, train
from roma.cli.options import exit_code
from roma.config.overlay import resolve, to_json, without_secrets
from roma.config.presets import preset
from roma.errors import ConfigError, TrainingError, WeightsError
from roma.evaluation.evaluate import evaluate_shards
from roma.inference.translator import open_translator
from roma.models.vit.weights import fill
from roma.report.page import write_page
from roma.training.checkpoint import load_newest
from roma.training.networks import build_networks
from roma.training.snapshot import load_snapshot
from tests.roma.conftest import SMALL, write_shards
from tests.roma.evaluation.test_evaluate import write_video
from tests.roma.pretrain.test_pretrain import SMALL as SMALL_PRETRAINING
from tests.web_server import Nginx, serving

PASSWORD, TOKEN = "Sesame-17", "T0ken-4711"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("secrets")
    write_shards(folder / "infrared", "night", num_frames=12, channels=1, seed=1)
    write_shards(folder / "visible", "day", num_frames=12, channels=3, seed=2)
    write_shards(folder / "dusk", "dusk", num_frames=4, channels=1, seed=3)
    with serving(folder, folder / "nginx") as started:
        yield started


def far(server: Nginx, name: str, *, password: str = PASSWORD, token: str = TOKEN) -> str:
    return f"http://bob:{password}@127.0.0.1:{server.port}/{name}/*.tar?token={token}"


def bare(server: Nginx, name: str) -> str:
    return f"http://127.0.0.1:{server.port}/{name}/*.tar"


def trained(server: Nginx, run: Path, *more: str, **secrets: str) -> Result:
    words = ["--preset", "tiny", "--out", str(run), "--device", "cpu", "--verbose"]
    for option, name in (("--infrared", "infrared"), ("--visible", "visible"), ("--held-out", "dusk")):
        words += [option, far(server, name, **secrets)]
    for setting in (*SMALL, "schedule.total_steps=4"):
        words += ["--set", setting]
    return CliRunner().invoke(train.train_command, [*words, *more])


def assert_nothing_secret(root: Path, *texts: str) -> None:
    """No byte of a file, of a member of a zip file or of a text is part of a password or a token."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        contents = {str(path): path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                contents |= {f"{path}!{name}": packed.read(name) for name in packed.namelist()}
        found += [name for name, data in contents.items() if any(word.encode() in data for word in (PASSWORD, TOKEN))]
    assert found == []
    assert not [text for text in texts if PASSWORD in text or TOKEN in text]


def test_a_run_from_urls_with_a_password_and_a_token_keeps_neither(server: Nginx, tmp_path: Path):
    run = tmp_path / "run"
    shown = trained(server, run, "--dry-run")
    first = trained(server, run, "--max-steps", "2")
    assert (shown.exit_code, first.exit_code) == (0, 0), first.output
    assert json.loads(shown.stdout)["data"]["infrared"] == [bare(server, "infrared")]
    assert json.loads((run / "config.json").read_text())["data"]["held_out"] == [bare(server, "dusk")]
    assert load_snapshot(run / "snapshot.pt").config.data.visible == (bare(server, "visible"),)
    newest = load_newest(run)
    assert newest is not None
    assert (newest.step, newest.config["data"]["infrared"]) == (2, [bare(server, "infrared")])
    write_page(tmp_path / "page.html", run)
    assert_nothing_secret(tmp_path, shown.output, first.output)


def test_a_run_goes_on_with_another_password_and_with_its_own_config(server: Nginx, tmp_path: Path):
    run = tmp_path / "run"
    assert trained(server, run, "--max-steps", "1").exit_code == 0
    second = trained(server, run, "--max-steps", "2", password="another", token="2nd")
    assert second.exit_code == 0, second.output
    words = ["--config", str(run / "config.json"), "--out", str(run), "--device", "cpu", "--max-steps", "3"]
    third = CliRunner().invoke(train.train_command, words)
    assert third.exit_code == 0, third.output
    assert "3 of 3 steps (from step 2; the schedule has 4)" in third.output
    changed = trained(server, run, "--infrared", far(server, "dusk"))
    assert isinstance(changed.exception, ConfigError)
    assert f'data.infrared ["{bare(server, "infrared")}"] -> ' in str(changed.exception)
    assert_nothing_secret(run, str(changed.exception), changed.output)


def test_a_backbone_names_its_shards_without_secrets(server: Nginx, tmp_path: Path):
    words = ["--preset", "tiny", "--out", str(tmp_path), "--device", "cpu", "--max-steps", "2"]
    words += ["--infrared", far(server, "infrared"), "--visible", far(server, "visible")]
    for setting in SMALL_PRETRAINING:
        words += ["--set", setting]
    done = CliRunner().invoke(pretrain.pretrain_command, words)
    assert done.exit_code == 0, done.output
    assert bare(server, "infrared").encode() in (tmp_path / "backbone.safetensors").read_bytes()
    assert_nothing_secret(
        tmp_path, done.output, CliRunner().invoke(pretrain.pretrain_command, [*words, "--dry-run"]).output
    )


def test_an_evaluation_names_its_shards_without_secrets(server: Nginx, tmp_path: Path):
    assert trained(server, tmp_path / "run", "--max-steps", "1").exit_code == 0
    write_video(
        tmp_path / "truth" / "dusk.mp4", 4, lambda index: torch.full((32, 48, 3), 40 * index, dtype=torch.uint8).numpy()
    )
    report = evaluate_shards(
        open_translator(tmp_path / "run" / "snapshot.pt", torch.device("cpu")),
        (far(server, "dusk"),),
        tmp_path / "truth",
        tmp_path / "evaluation",
        visible=(far(server, "visible"),),
    )
    assert (report.source, report.visible) == (bare(server, "dusk"), bare(server, "visible"))
    assert_nothing_secret(tmp_path, str(report))


def test_what_stops_a_run_does_not_tell_the_secrets_of_a_url(
    server: Nginx, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    secret = f"bob:{PASSWORD}@127.0.0.1:{server.port}"
    texts = []
    for words in (
        ["--infrared", f"http://{secret}/none/*.tar?token={TOKEN}", "--visible", far(server, "visible")],
        ["--infrared", f"http://{secret}/infrared/a-{{9..1}}.tar?token={TOKEN}", "--visible", far(server, "visible")],
        ["--infrared", "a.tar", far(server, "visible")],
        ["--set", far(server, "visible")],
        ["--set", f"loss.gan={far(server, 'visible')}"],
        ["--set", f"mode={far(server, 'visible')}"],
        ["--set", f"data={far(server, 'visible')}"],
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", "--preset", "tiny", "--out", str(tmp_path / "run"), "--device", "cpu", *words])
        texts.append(capfd.readouterr().err)
        assert stopped.value.code != 0
        assert "127.0.0.1" in texts[-1]
    assert_nothing_secret(tmp_path, *texts)


def test_weights_of_a_vit_behind_a_url_are_refused_without_its_secrets():
    vit = build_networks(resolve("tiny", mode=None, config_file=None, settings=SMALL), torch.device("cpu")).vit
    assert vit is not None
    with pytest.raises(WeightsError, match=r"vit.weights: https://hub.example/vit.npz: is a URL, expected a file here"):
        fill(vit, f"https://bob:{PASSWORD}@hub.example/vit.npz?token={TOKEN}")


def test_patterns_of_shards_are_stored_whole_and_their_tokens_are_not():
    patterns = ["s3://b/lite-00000?.tar", f"http://bob:{PASSWORD}@host/lite-0000??.tar?token={TOKEN}"]
    config = resolve("tiny", mode=None, config_file=None, settings=[f"data.infrared={json.dumps(patterns)}"])
    assert to_json(config)["data"]["infrared"] == ["s3://b/lite-00000?.tar", "http://host/lite-0000??.tar"]


def test_an_error_of_ours_is_shown_without_the_secrets_of_a_url(capfd: pytest.CaptureFixture[str]):
    def fails() -> None:
        raise TrainingError(f"http://bob:{PASSWORD}@host/a.tar?token={TOKEN}: does not answer; try again")

    assert exit_code(fails) == 1
    assert capfd.readouterr().err == "Error: http://host/a.tar: does not answer; try again\n"


@pytest.mark.parametrize("slashes", ["//", "/"])
def test_a_url_where_a_file_here_is_taken_is_refused_without_its_secrets(
    slashes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    url = f"https:{slashes}bob:{PASSWORD}@host/a.pt?token={TOKEN}"
    for words, kind in (
        (["translate", url, "in.mp4", "-o", "out.mp4"], "file"),
        (["evaluate", "a.pt", "--video", "in.mp4", "--truth", url], "path"),
        (["report", url, "-o", "page.html"], "directory"),
        (["train", "--out", url], "directory"),
        (["train", "--out", "run", "--config", url], "file"),
        (["pretrain", "--out", url], "directory"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        assert f"must be a local {kind}, got https://host/a.pt; copy it first" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_settings_without_urls_are_stored_as_they_are():
    config = preset("tiny")
    assert to_json(config)["loss"]["region_sizes"] == [2, 4, 8]
    assert without_secrets({"a": ["b?c", 1, None], "d": ("hub:x/y@z",)}) == {"a": ["b?c", 1, None], "d": ("hub:x/y@z",)}
