"""Wheels made on the spot, for environments that are made without a network."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str], requires: Sequence[str] = ()
) -> Path:
    """A wheel of pure Python.

    Args:
        folder: where it is written.
        name, version: of the distribution.
        files: content by path.
        requires: what it depends on.
    """
    made = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {package}\n" for package in requires)
    named = f"Name: {name}\nVersion: {version}\n"
    everything = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\n{named}{needs}",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in everything)
    with zipfile.ZipFile(made, "w") as archive:
        for path, content in everything.items():
            archive.writestr(path, content)
        archive.writestr(f"{information}/RECORD", record)
    return made
