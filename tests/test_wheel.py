"""The wheel: what it holds, and that it works in an empty folder of an environment that has never seen the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_the_assets_and_no_generic_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"crossbar_sim", "crossbar_kernels", "lorafusion", "crossbar_experiments"}
    for needed in (
        "crossbar_kernels/crossbar.cu",
        "crossbar_sim/presets/cmo_hfox.toml",
        "crossbar_sim/presets/prices/isaac_horowitz.toml",
        "crossbar_experiments/_assets/configs/demo.toml",
        "crossbar_experiments/_assets/data/wordnet.tsv.xz",
        "crossbar_experiments/_assets/data/LICENSE.wordnet.txt",
        "crossbar_experiments/templates/report.html.jinja",
        "crossbar_experiments/style.mplstyle",
    ):
        assert needed in names
    modules = {name.split("/")[4] for name in names if name.endswith("adapter_model.safetensors")}
    assert len(modules) >= 10


def test_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment that sees this one's dependencies, but not its editable install."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
        ).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    empty = tmp_path / "empty"
    empty.mkdir()

    def lorafusion(*arguments: str) -> str:
        code = "from crossbar_experiments.cli import main; main()"
        done = subprocess.run(
            [python, "-c", code, *arguments], cwd=empty, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import crossbar_experiments, transformers.modeling_utils; print(crossbar_experiments.__file__)"
    found = subprocess.check_output([python, "-c", where], cwd=empty, text=True)
    assert str(tmp_path) in found
    assert "demo" in lorafusion("--help")
    lorafusion("demo", "--quick", "--workers", "1")
    assert (empty / "runs" / "demo_quick" / "report.html").is_file()
