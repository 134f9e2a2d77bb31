"""Which files a module runs on, by its imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import code
from pipeline.code import closure, code_digest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    files = {
        "pipeline/__init__.py": "",
        "pipeline/a.py": "import json\nfrom pipeline import b\n",
        "pipeline/b.py": "def f():\n    from pipeline.c import name\n",
        "pipeline/c.py": "import pipeline.d\n",
        "pipeline/d.py": "if TYPE_CHECKING:\n    import pipeline.inner.deep as deep\n",
        "pipeline/inner/__init__.py": "from pipeline import e\n",
        "pipeline/inner/deep.py": "import pipeline.a\n",  # a circle
        "pipeline/e.py": "'''import pipeline.unused'''\n",
        "pipeline/unused.py": "",
        "stages/__init__.py": "",
        "stages/s.py": "from pipeline.e import f as g, h\nimport numpy\nimport pipelines\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(module: str, home: Path) -> list[str]:
    return [file.relative_to(home).as_posix() for file in closure(module, home)]


def test_imports_are_followed(home: Path) -> None:
    assert names("pipeline.a", home) == [
        "pipeline/__init__.py",
        "pipeline/a.py",
        "pipeline/b.py",
        "pipeline/c.py",
        "pipeline/d.py",
        "pipeline/e.py",
        "pipeline/inner/__init__.py",
        "pipeline/inner/deep.py",
    ]


def test_what_is_not_ours_or_not_imported_is_left_out(home: Path) -> None:
    assert names("stages.s", home) == ["pipeline/__init__.py", "pipeline/e.py", "stages/s.py"]


def test_a_module_that_is_none(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no module pipeline\.zzz"):
        closure("pipeline.zzz", home)


def test_the_digest_changes_with_names_and_contents(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "HOME", home)
    monkeypatch.setattr(code.closure, "__defaults__", (home,))
    before = code_digest("pipeline.c")
    assert code_digest("pipeline.c") == before
    (home / "pipeline/unused.py").write_text("x = 1\n")
    assert code_digest("pipeline.c") == before
    (home / "pipeline/d.py").write_text("import pipeline.inner.deep\n")
    assert code_digest("pipeline.c") != before


def test_the_train_stage_runs_on_the_loop_and_not_on_evaluation() -> None:
    files = {file.name for file in closure("stages.train")}
    assert {"train.py", "training.py", "batches.py", "runner.py"} <= files
    assert files.isdisjoint({"evaluation.py", "prediction.py", "splitting.py"})
