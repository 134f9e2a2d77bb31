"""`make doctor`: each thing that can be wrong is made, and is found; a machine where all is well has no findings."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline import doctor, doctor_devices, doctor_machine, doctor_plan
from pipeline.code import HOME
from pipeline.doctor_devices import Devices
from pipeline.doctor_machine import Limits
from pipeline.doctor_plan import Processes
from pipeline.findings import GIB, Finding, error, fact
from pipeline.params import Params, load_params
from pipeline.paths import MlflowStore

SHIPPED = load_params(HOME / "params.yaml")
NO_LIMITS = Limits(cpus=None, memory=None)
ONE_CPU = Processes(total=1, here=1, use_cpu=True, precision="no")


def changed(section: str, **values: Any) -> Params:
    inner = getattr(SHIPPED, section)
    return SHIPPED.model_copy(update={section: inner.model_copy(update=values)})


def severities(findings: list[Finding]) -> list[str]:
    return [finding.severity for finding in findings]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "dvc.yaml").touch()
    return tmp_path


@pytest.fixture
def server() -> Iterator[tuple[str, list[int]]]:
    """A web server on a free port, and the status that it answers with."""
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", status
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# The machine.


def project(folder: Path, *, python: str = ">=3.11", needs: str = "", pins: str = "") -> Path:
    (folder / "pyproject.toml").write_text(f'[project]\nrequires-python = "{python}"\ndependencies = [{needs}]\n')
    (folder / "constraints.txt").write_text(pins)
    return folder


def test_python(tmp_path: Path) -> None:
    assert doctor_machine.python(project(tmp_path)).severity == "ok"
    old = doctor_machine.python(project(tmp_path), "3.9.1")
    assert (old.severity, old.problem) == ("error", "pyproject.toml asks for >=3.11")


def test_packages_that_are_there(tmp_path: Path) -> None:
    version = np.__version__
    (finding,) = doctor_machine.packages(project(tmp_path, needs='"numpy>=1"', pins=f"# pinned\nnumpy=={version}\n"))
    assert (finding.severity, finding.value) == ("ok", "1 of 1 at the pinned version")


def test_packages_that_are_absent_old_or_not_as_pinned(tmp_path: Path) -> None:
    findings = doctor_machine.packages(project(tmp_path, needs='"no-such-thing>=1", "numpy>=99"', pins="numpy==0.1\n"))
    assert severities(findings) == ["error", "error", "warning"]
    assert findings[0].value == "not installed"
    assert findings[1].problem == "pyproject.toml asks for >=99"
    assert f"numpy {np.__version__} (pinned 0.1)" in str(findings[2].problem)


def test_a_build_of_a_pinned_version_is_that_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine.metadata, "version", lambda name: "2.13.0+cu130")
    (finding,) = doctor_machine.packages(project(tmp_path, needs='"torch>=2.10"', pins="torch==2.13.0\n"))
    assert finding.severity == "ok"


def test_limits_of_the_groups_around_a_process(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("12:cpu:/\n0::/pods/mine\n")
    (tmp_path / "pods" / "mine").mkdir(parents=True)
    (tmp_path / "pods" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "pods" / "mine" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "pods" / "mine" / "memory.max").write_text("1073741824\n")
    (tmp_path / "pods" / "memory.max").write_text("max\n")
    limits = doctor_machine.cgroup_limits(tmp_path, tmp_path / "own")
    assert limits == Limits(cpus=1.5, memory=GIB)
    assert "its container grants 1.5" in doctor_machine.cores(limits).value
    assert "its container grants 1.0 GiB" in doctor_machine.memory(limits).value


def test_limits_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    for name, value in {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert doctor_machine.cgroup_limits(tmp_path, tmp_path / "absent") == Limits(cpus=2.0, memory=None)


def test_no_limits_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert doctor_machine.cgroup_limits(tmp_path / "a", tmp_path / "b") == NO_LIMITS


@pytest.mark.parametrize(
    ("text", "found", "value"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16\n", ("amx_bf16", "avx512_bf16"), "yes (amx_bf16, avx512_bf16)"),
        ("Features\t: fp asimd bf16\n", ("bf16",), "yes (bf16)"),
        ("flags\t\t: fpu avx2\n", (), "no"),
        ("", None, "unknown: this system does not tell"),
    ],
)
def test_bfloat16_of_a_processor(tmp_path: Path, text: str, found: tuple[str, ...] | None, value: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert doctor_machine.bfloat16_instructions(tmp_path / "cpuinfo") == found
    assert doctor_machine.cpu_bfloat16(found).value == value


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 * GIB))
    assert doctor_machine.disk("disk", folder) == fact("disk", f"50.0 GiB free ({folder})")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=GIB))
    assert doctor_machine.disk("disk", folder).severity == "warning"


def test_the_hub(server: tuple[str, list[int]], nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address, status = server
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    for answer in (200, 401):
        status[0] = answer
        assert doctor_machine.hub().severity == "ok"
    status[0] = 503
    assert doctor_machine.hub().severity == "warning"
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    assert doctor_machine.hub().severity == "warning"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in doctor_machine.hub().value


def store(uri: str) -> MlflowStore:
    return MlflowStore(tracking_uri=uri, artifact_location=None)


def test_an_mlflow_server(server: tuple[str, list[int]], nobody: str) -> None:
    assert doctor_machine.mlflow(store(server[0])).severity == "ok"
    assert doctor_machine.mlflow(store(nobody)).severity == "error"
    assert doctor_machine.mlflow(store("postgresql://db/mlflow")).value == "postgresql://db/mlflow (not tried)"


def database(file: Path, schema: str) -> Path:
    connection = sqlite3.connect(file)
    connection.executescript(
        "CREATE TABLE runs (run_uuid TEXT); INSERT INTO runs VALUES ('a');"
        f"CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('{schema}');"
    )
    connection.close()
    return file


def test_an_mlflow_database(tmp_path: Path, mlflow_root: Path) -> None:
    assert doctor_machine.mlflow(store(f"sqlite:///{tmp_path / 'mlflow.db'}")).value.endswith("by the first training")
    assert not (tmp_path / "mlflow.db").exists()
    assert doctor_machine.mlflow(store(f"sqlite:///{mlflow_root / 'mlflow.db'}")).severity == "ok"
    old = doctor_machine.mlflow(store(f"sqlite:///{database(tmp_path / 'old.db', 'abc')}"))
    assert old.severity == "error"
    assert "1 runs, schema abc" in old.value
    assert "mlflow db upgrade" in str(old.fix)
    (tmp_path / "text.db").write_text("no database\n" * 100)
    assert doctor_machine.mlflow(store(f"sqlite:///{tmp_path / 'text.db'}")).severity == "error"


def test_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert severities(doctor_machine.dvc(tmp_path)) == ["error"]
    config = tmp_path / ".dvc" / "config"
    config.parent.mkdir()
    config.touch()
    remote, disk = doctor_machine.dvc(tmp_path)
    assert remote.value.startswith("none: ")
    assert str(tmp_path / ".dvc" / "cache") in disk.value
    config.write_text(
        f"[core]\n    remote = team\n['remote \"team\"']\n    url = s3://bucket\n[cache]\n    dir = {tmp_path}\n"
    )
    remote, disk = doctor_machine.dvc(tmp_path)
    assert remote.value == "team (s3://bucket)"
    assert f"({tmp_path})" in disk.value
    config.write_text("[core]\n    no_such_key = 1\n")
    assert severities(doctor_machine.dvc(tmp_path)) == ["error"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor_machine.dvc(tmp_path)[0].value == "not found on the PATH"


def test_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        names = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert doctor_machine.git(tmp_path).value == "no repository"
    git("init", "--quiet", "--initial-branch", "main")
    assert doctor_machine.git(tmp_path).value == "no commit yet"
    git("commit", "--quiet", "--allow-empty", "--message", "start")
    assert doctor_machine.git(tmp_path).value.endswith(", clean")
    (tmp_path / "new").touch()
    assert doctor_machine.git(tmp_path).value.endswith(", 1 files changed since")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor_machine.git(tmp_path).severity == "warning"


# What params.yaml uses.


def test_packages_that_params_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(params: Params) -> list[tuple[str, str | None]]:
        return [(finding.severity, finding.fix) for finding in doctor_plan.extras(params)]

    monkeypatch.setattr(doctor_plan.importlib.util, "find_spec", lambda name: None)
    assert found(changed("fetch", source="none")) == [("ok", None)]
    for params, install in (
        (changed("fetch", source="sample"), ".[sample]"),
        (changed("model", attn_implementation="flash_attention_2"), "flash-attn"),
        (changed("report", label_errors=True), ".[label-errors]"),
        (changed("launch", config_file=str(HOME / "configs/accelerate/deepspeed_zero2.yaml")), ".[deepspeed]"),
    ):
        plain = params.model_copy(update={"fetch": params.fetch.model_copy(update={"source": "none"})})
        findings = found(params if install == ".[sample]" else plain)
        assert [severity for severity, _ in findings] == ["error"]
        assert install in str(findings[0][1])
    monkeypatch.setattr(doctor_plan.importlib.util, "find_spec", lambda name: object())
    assert found(SHIPPED) == [("ok", None)]


def test_data_of_your_own(place: Path) -> None:
    fetch = changed("fetch", source="none").fetch

    def found(path: str) -> Finding:
        return doctor_plan.source(fetch, changed("data", path=path).data)

    assert "stays empty" in str(found("data/fetched").problem)
    assert found("reviews.csv").severity == "error"
    (place / "reviews.csv.dvc").touch()
    assert "dvc pull" in str(found("reviews.csv").fix)
    (place / "reviews.csv").touch()
    assert found("reviews.csv") == fact("data", "reviews.csv (your own files)")


def test_data_from_elsewhere(place: Path, server: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**values: Any) -> Finding:
        return doctor_plan.source(changed("fetch", **values).fetch, SHIPPED.data)

    assert found(source="sample").severity == "ok"
    assert "HF_HUB_OFFLINE is set" in str(found(source="hub", name="team/data").problem)
    assert found(source="hub", name="team/data").severity == "error"
    assert found(source="glue", name="mrpc", path="glue").severity == "error"
    assert "did you mean" in str(found(source="glue", name="mprc", path="glue").problem)
    (place / "glue" / "MRPC").mkdir(parents=True)
    assert found(source="glue", name="mrpc", path="glue").value == "glue mrpc in glue/MRPC"
    (place / "data" / "fetched").mkdir(parents=True)
    (place / "data" / "fetched" / "manifest.json").touch()
    assert found(source="hub", name="team/data").severity == "warning"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    assert found(source="hub", name="team/data").value == f"hub team/data from {server[0]}"


def test_what_predict_reads(place: Path) -> None:
    assert doctor_plan.to_classify(SHIPPED.predict).severity == "ok"  # a stage writes it
    predict = changed("predict", path="new.csv").predict
    assert doctor_plan.to_classify(predict).severity == "error"
    (place / "new.csv").touch()
    assert doctor_plan.to_classify(predict).severity == "ok"


def save_weights(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"a": np.zeros((10, 20), np.float16), "b": np.zeros(5, np.float32)}, folder / "model.safetensors")
    return folder


def test_an_upload(server: tuple[str, list[int]], nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = changed("register_", push_to_hub=True, hub_model_id="team/news").register_
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    monkeypatch.setenv("HF_TOKEN", "hf_anything")
    assert doctor_plan.upload(SHIPPED.register_) == fact("push to hub", "off")
    assert doctor_plan.upload(asked).severity == "ok"
    assert "team/news" in doctor_plan.upload(asked).value
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)  # nor a file of `hf auth login`
    lacking = doctor_plan.upload(asked)
    assert (lacking.severity, "HF_TOKEN" in str(lacking.fix)) == ("error", True)
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    unreachable = doctor_plan.upload(asked)
    assert (unreachable.severity, "HF_ENDPOINT" in str(unreachable.fix)) == ("error", True)


def test_models(place: Path, server: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**values: Any) -> tuple[Finding, Path | None]:
        return doctor_plan.model(changed("model", **values).model)

    folder = save_weights(place / "encoder")
    finding, at = found(name_or_path=str(folder))
    assert (finding.severity, at) == ("ok", folder)
    assert doctor_plan.parameters(folder) == 205
    assert found(name_or_path=str(place / "absent"))[0].severity == "error"
    assert found(name_or_path="package:no_such_package/model")[0].severity == "error"
    assert found(name_or_path="what is this?")[0].problem == "neither a folder nor a hub id"
    assert "out of reach" in str(found(name_or_path="team/encoder")[0].problem)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    assert found(name_or_path="team/encoder")[0].value == f"team/encoder: downloaded from {server[0]} when needed"
    whole = SHIPPED.model_dump(mode="json", by_alias=True)
    whole["model"]["from_scratch"] = {"model_type": "bert"}
    assert doctor_plan.model(Params.model_validate(whole).model)[0].value.startswith("a bert from scratch")


def test_room_for_what_training_writes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SHIPPED.train.model_copy(update={"weight_averaging": None})
    averaged = plain.model_copy(update={"weight_averaging": 3.0})
    local = MlflowStore(tracking_uri="sqlite:///mlflow.db", artifact_location="file:///here")
    weights, elsewhere = GIB // 4, store("http://elsewhere")
    # 1 GiB in float32: 3 checkpoints of 3 GiB, or of 4, the model twice; and one checkpoint and the model for MLflow.
    for free, train, where, severity in (
        (100, plain, local, "ok"),
        (14, plain, local, "error"),
        (14, plain, elsewhere, "ok"),
        (14, averaged, elsewhere, "ok"),
        (13, plain, elsewhere, "ok"),
        (13, averaged, elsewhere, "error"),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free * GIB))
        assert doctor_plan.room(weights, train, where).severity == severity, (free, train.weight_averaging)


def test_memory_for_weights_and_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_plan.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    plain = SHIPPED.train.model_copy(update={"weight_averaging": None})
    averaged = plain.model_copy(update={"weight_averaging": 3.0})
    assert doctor_plan.memory_needed(GIB // 4, plain, NO_LIMITS).severity == "ok"
    assert doctor_plan.memory_needed(GIB, plain, NO_LIMITS).severity == "error"
    assert doctor_plan.memory_needed(GIB // 4, plain, Limits(cpus=None, memory=2 * GIB)).severity == "error"
    assert doctor_plan.memory_needed(GIB // 2, plain, NO_LIMITS).severity == "ok"
    assert doctor_plan.memory_needed(GIB // 2, averaged, NO_LIMITS).severity == "error"


def test_accelerate_config_files(place: Path) -> None:
    assert doctor_plan.launcher(SHIPPED.launch).severity == "ok"
    absent = changed("launch", config_file="absent.yaml").launch
    assert doctor_plan.launcher(absent).severity == "error"
    (place / "own.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 8\nnum_machines: 2\nuse_cpu: true\n")
    launch = changed("launch", config_file="own.yaml", mixed_precision="no").launch
    assert doctor_plan.launcher(launch).value.startswith("own.yaml (MULTI_CPU)")
    assert doctor_plan.processes(launch) == Processes(total=8, here=4, use_cpu=True, precision="no")


def test_the_total_batch() -> None:
    four = Processes(total=4, here=4, use_cpu=False, precision="no")
    train = changed("train", per_device_train_batch_size=8, total_train_batch_size=64).train
    assert doctor_plan.batch(train, four).value == "64 rows = 8 per device x 4 processes x 2 steps"
    train = changed("train", per_device_train_batch_size=8, total_train_batch_size=50).train
    assert doctor_plan.batch(train, four).severity == "error"


# What training runs on.


def gpus(count: int, *, bfloat16: bool = True) -> Devices:
    return Devices(kind="cuda", names=("a GPU",) * count, bfloat16=bfloat16)


@pytest.mark.parametrize(
    ("these", "started", "instructions", "expected"),
    [
        (Devices(kind="cpu", names=(), bfloat16=True), ONE_CPU, (), ["ok", "ok"]),
        (gpus(1), Processes(total=1, here=1, use_cpu=False, precision="bf16"), None, ["ok", "ok"]),
        (gpus(4), Processes(total=8, here=4, use_cpu=False, precision="fp16"), None, ["ok", "ok"]),
        (gpus(2), Processes(total=4, here=4, use_cpu=False, precision="no"), None, ["error", "ok"]),
        (gpus(2), Processes(total=1, here=1, use_cpu=False, precision="no"), None, ["warning", "ok"]),
        (gpus(1, bfloat16=False), Processes(total=1, here=1, use_cpu=False, precision="bf16"), None, ["ok", "error"]),
        (gpus(1), Processes(total=1, here=1, use_cpu=True, precision="fp16"), None, ["ok", "error"]),
        (gpus(1), Processes(total=1, here=1, use_cpu=True, precision="bf16"), ("amx_bf16",), ["ok", "ok"]),
        (gpus(1), Processes(total=1, here=1, use_cpu=True, precision="bf16"), (), ["ok", "warning"]),
        (gpus(1), Processes(total=1, here=1, use_cpu=True, precision="bf16"), None, ["ok", "ok"]),
    ],
)
def test_processes_and_precision(
    these: Devices, started: Processes, instructions: tuple[str, ...] | None, expected: list[str]
) -> None:
    assert severities(doctor_devices.used(these, started, instructions)) == expected


def test_devices_as_torch_tells_them() -> None:
    import torch

    these = doctor_devices.devices()
    assert len(these.names) == (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)
    assert len(doctor_devices.found(these)) == max(1, len(these.names))


def test_more_threads_than_processors() -> None:
    own = changed("launch", num_cpu_threads_per_process=4096).launch
    finding = doctor_devices.threads(own, ONE_CPU, NO_LIMITS)
    assert finding.severity == "warning"
    assert "set launch.num_cpu_threads_per_process: " in str(finding.fix)
    one = changed("launch", num_cpu_threads_per_process=1).launch
    assert doctor_devices.threads(one, ONE_CPU, NO_LIMITS) == fact("threads", "1")
    assert doctor_devices.threads(one, ONE_CPU, Limits(cpus=0.5, memory=None)).severity == "warning"


def test_a_default_config_of_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config import config_args

    monkeypatch.setattr(config_args, "default_json_config_file", str(tmp_path / "absent"))
    monkeypatch.setattr(config_args, "default_yaml_config_file", str(tmp_path / "default.yaml"))
    assert doctor_devices.accelerate_default(SHIPPED.launch) is None
    (tmp_path / "default.yaml").touch()
    finding = doctor_devices.accelerate_default(SHIPPED.launch)
    assert finding is not None
    assert finding.severity == "warning"
    assert doctor_devices.accelerate_default(changed("launch", config_file="own.yaml").launch) is None


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_devices.installed() is None
    monkeypatch.setattr(doctor_devices.importlib.util, "find_spec", lambda name: None)
    finding = doctor_devices.installed()
    assert finding is not None
    assert finding.severity == "error"


# The whole.


def test_a_params_file_with_a_mistake_is_a_finding(place: Path) -> None:
    (place / "params.yaml").write_text("fetch: {}\n")
    part, last = list(doctor.examine())[-1]
    assert (part, last.name, last.severity) == (doctor.PLAN, "params.yaml", "error")
    assert "\n" not in str(last.problem)


def test_no_project_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert doctor_plan.repository().severity == "error"


def test_lines_of_a_finding() -> None:
    assert fact("git", "clean").lines() == ["  git                clean"]
    assert error("torch", "not installed", "train needs it", "run `make setup`").lines() == [
        "X torch              not installed",
        "                     error: train needs it; run `make setup`",
    ]


def test_as_a_program(tmp_path: Path) -> None:
    """In the project all is well but for what this machine may lack; with a mistake in params.yaml it exits with 1."""
    text = (HOME / "params.yaml").read_text(encoding="utf-8")
    shutil.copy(HOME / "pyproject.toml", tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(text.replace("seed: 13", "seed: thirteen", 1))
    environment = {
        "PYTHONPATH": str(HOME),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "stages.doctor"]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (1, "")
    assert told.stdout.startswith("this machine\n    project ")
    assert "X params.yaml" in told.stdout
    code = (
        "import sys, runpy; sys.argv[1:] = ['--json']\n"
        "try: runpy.run_module('stages.doctor', run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules"  # which takes seconds, and which nothing here needs
    )
    as_json = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (as_json.returncode, as_json.stderr) == (1, "")
    document = json.loads(as_json.stdout)
    assert document["errors"] == sum(finding["severity"] == "error" for finding in document["findings"])
    assert {"part", "name", "value", "severity", "problem", "fix"} == set(document["findings"][0])
