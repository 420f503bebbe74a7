"""Build wheel and sdist, install each in an empty environment, and use it there: `make release-check`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.rooms import ROOT

PLACE = ROOT / "build" / "release"
SMOKE = Path(__file__).with_name("smoke.py")


def run(*words: object, folder: Path = ROOT) -> None:
    """A command that has to succeed."""
    subprocess.run([*map(str, words)], cwd=folder, check=True)


def built() -> list[Path]:
    """A wheel and an sdist of this very tree."""
    shutil.rmtree(PLACE, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", PLACE)
    return sorted(PLACE.iterdir())


def tried(package: Path) -> None:
    """Install a package where nothing else is, and use it in a folder whose name is not plain."""
    environment = PLACE / f"environment-{package.suffix[1:]}"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, package)
    with tempfile.TemporaryDirectory(prefix="élan vital ") as folder:
        run(python, "-I", "-W", "ignore", SMOKE, folder=Path(folder))


def main() -> None:
    """Both packages, one after the other."""
    packages = built()
    assert [package.suffix for package in packages] == [".whl", ".gz"]
    for package in packages:
        print(f"{package.name} in an empty environment", flush=True)
        tried(package)


if __name__ == "__main__":
    main()
