"""The pages of docs/generated that the recordings give.

    python -m benchmarks.recorded_pages            writes them
    python -m benchmarks.recorded_pages launches   writes one

tests/test_docs.py makes each again and compares.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import (
    interleaving_table,
    launch_table,
    published_table,
    second_gpu_table,
    server_table,
)
from pytest_energy.report import (
    collect,
    prefill_decode,
    release_pictures,
    release_report,
    release_table,
    releases,
)
from pytest_energy.report.pictures import Picture
from pytest_energy.store.noise import NoiseStore

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "generated"
H200 = "recordings/h200-sxm-141gb"
H100 = "recordings/h100-sxm-80gb"
INTERLEAVED = (
    ("0.25.1 against itself", "vllm-0.25.1-against-itself"),
    ("0.20.2 against 0.25.1", "vllm-0.20.2-to-0.25.1"),
    ("0.25.1 with and without asynchronous scheduling", "vllm-0.25.1-no-async-interleaved"),
    ("the 1B against itself", "vllm-0.25.1-against-itself-1b"),
)
CANDIDATE = "candidate"
RELEASES = tuple(
    f"{H200}/{gpu}/releases"
    for gpu in (
        "gpu-1b5d3c5f",
        "gpu-2c1899fc",
        "gpu-3c745cfa",
        "gpu-5a42a730",
        "gpu-5b58ce94",
    )
)


def _interleaved(tests: str, folder: str) -> str:
    folder = f"{H100}/{folder}"
    return (
        f"pytest {tests} --energy-replay {folder}/{CANDIDATE} "
        f"--energy-reference-replay {folder}/reference"
    )


_HOST_BOUND = "suites/host_bound"
_8_AND_64 = f'{_HOST_BOUND} -k "bs8 or bs64"'
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "H100, quiet cells, against five launches on the same GPU": tuple(
        f"pytest suites --energy-replay {H100}/gpu-6ac11e84/{engine}"
        for engine in ("unchanged", "no-async", "piecewise", "eager", "max-num-batched-tokens-512")
    ),
    "H200, quiet cells, against five launches on the same GPU": tuple(
        f"pytest suites --energy-replay {H200}/gpu-739044fb/{engine}"
        for engine in ("unchanged", "triton-attn")
    ),
    "H200, on GPUs without baselines, by launches of the reference there": tuple(
        f"pytest suites --energy-replay {H200}/gpu-{gpu}/{engine} --energy-reference-replay "
        f"{H200}/gpu-{gpu}/reference --energy-interleave never"
        for gpu, engines in (
            ("908b0762", ("unchanged", "no-async", "max-num-batched-tokens-512")),
            ("d7eb4dc2", ("unchanged", "no-async")),
            ("abc63f35", ("unchanged", "no-async")),
            ("b314284d", ("unchanged",)),
            ("8f41b681", ("no-async",)),
        )
        for engine in engines
    ),
    "H200, against the stored baseline of 0.20.2": (
        f"pytest {_HOST_BOUND} --energy-replay {H200}/vllm-0.25.1",
        f"pytest {_8_AND_64} --energy-replay {H200}/vllm-0.25.1-eager",
        f"pytest {_8_AND_64} --energy-replay {H200}/vllm-0.25.1-no-async",
        f"pytest {_HOST_BOUND} --energy-replay {H200}/vllm-0.25.1-gate",
    ),
    "H200, launches of both releases alternating": (
        f"pytest {_HOST_BOUND} --energy-replay {H200}/vllm-0.25.1 "
        f"--energy-reference-replay {H200}/vllm-0.20.2",
    ),
    "H100, interleaved": tuple(
        _interleaved("benchmarks/cpu_bound" if folder.endswith("1b") else _8_AND_64, folder)
        for _, folder in INTERLEAVED
    ),
    "H100, the server's baseline judged against itself": (
        f"pytest {_HOST_BOUND} --energy-engine server "
        f"--energy-replay {H100}/gpu-3bbffe5c/vllm-0.25.1-server",
    ),
    "Two H100s, their baseline judged against itself": (
        f"pytest suites/two_gpus --energy-replay {H100}/gpus-90c8c798-23100d1e",
    ),
    "Noise between launches": (
        f"pytest-energy noise suites --energy-replay {H100}/gpu-e4e905c4/vllm-0.25.1-256-in "
        f"{H100}/gpu-6ac11e84/baseline {H100}/gpu-6ac11e84/unchanged",
        f"pytest-energy noise suites --energy-replay {H200}/gpu-739044fb/baseline "
        f"{H200}/gpu-739044fb/unchanged "
        + " ".join(
            f"{H200}/gpu-{gpu}/{engine}"
            for gpu in ("908b0762", "d7eb4dc2", "abc63f35", "b314284d")
            for engine in ("reference", "unchanged")
        )
        + f" {H200}/gpu-8f41b681/reference",
        f"pytest-energy noise {_HOST_BOUND} --energy-replay {H200}/vllm-0.25.1",
        f"pytest-energy noise {_8_AND_64} --energy-replay {H100}/vllm-0.25.1",
        f"pytest-energy noise benchmarks/cpu_bound "
        f"--energy-replay {H100}/vllm-0.25.1-against-itself-1b",
        f"pytest-energy noise {_HOST_BOUND} --energy-engine server "
        f"--energy-replay {H100}/gpu-3bbffe5c/vllm-0.25.1-server",
        f"pytest-energy noise suites/two_gpus --energy-replay {H100}/gpus-90c8c798-23100d1e",
    ),
}


def arguments(command: str, folder: Path) -> list[str]:
    """Of pytest, for a shown command; noise goes to a copy of the baselines in `folder`."""
    program, *rest = shlex.split(command)
    if program == "pytest":
        return rest
    copy = folder / "baselines"
    shutil.copytree(ROOT / "baselines", copy, dirs_exist_ok=True)
    return [*rest[1:], "--energy-noise", "--energy-baselines", str(copy)]


def table(output: str) -> str:
    """The summary table in what pytest printed: its heading and its rows."""
    row = r"(?:llama-[^,:\n]* bs=\d+ [^\s,:]+|  bs=\d+)  ?.*"  # of noise, of verdicts
    above = r"llama-(?:(?! bs=)[^,:\n])*"
    differing = r"    J/token [a-z ]+, tokens/s [a-z ]+"
    lines = re.compile(rf"^(?:cell  ?.*|{row}|{above}|{differing})$", re.M)
    return "\n".join(line.rstrip() for line in lines.findall(output))


def _verdicts() -> str:
    lines = ["# Verdicts on the recordings", ""]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    for title, commands in COMMANDS.items():
        lines += [f"## {title}", ""]
        for command in commands:
            with tempfile.TemporaryDirectory() as folder:
                program = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
                ran = subprocess.run(
                    [*program, *arguments(command, Path(folder))],
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
            if not (found := table(ran.stdout)):
                raise SystemExit(f"no table from {command}:\n{ran.stdout}\n{ran.stderr}")
            lines += ["```text", f"$ {command}", found, "```", ""]
    return "\n".join(lines)


def _launches() -> str:
    lines = ["# Launches", ""]
    for title, folder in (("H200", H200), ("H100", H100)):
        cells = launch_table.measured(ROOT / folder)
        lines += [f"## {title}", "", f"Below `{folder}`.", "", *launch_table.gpu_rows(cells), ""]
        for rows in (launch_table.launch_rows(cells), launch_table.idle_rows(cells)):
            lines += [*rows, ""] if rows else []
    return "\n".join(lines)


def _comparisons() -> str:
    lines = ["# Comparisons on the H100", "", "## Interleaved, and the same launches apart", ""]
    for title, folder in INTERLEAVED:
        rows = interleaving_table.rows([ROOT / H100 / folder])
        lines += [f"### {title[0].upper()}{title[1:]}", "", *rows, ""]
    boards = [
        (ROOT / H100 / board / "vllm-0.25.1-server", ROOT / H100 / board / "vllm-0.25.1")
        for board in ("", "gpu-a30fa4a8")
    ]
    rows = server_table.rows(server_table.pairs(boards))
    lines += ["## The server and the offline engine", "", *rows, ""]
    one = [ROOT / H100 / board / "vllm-0.25.1" for board in ("gpu-90c8c798", "gpu-23100d1e")]
    rows = second_gpu_table.lines(
        second_gpu_table.sides(one, 1),
        second_gpu_table.sides([ROOT / H100 / "gpus-90c8c798-23100d1e"], 2),
        NoiseStore(ROOT / "baselines"),
    )
    lines += ["## One GPU and two", "", *rows, ""]
    lines += ["## Prompts inside and outside CUDA graphs, and altered engines", ""]
    for gpu in ("gpu-2d029cfc", "gpu-bab983d3", "gpu-e4e905c4"):
        rows = launch_table.cell_rows(launch_table.measured(ROOT / H100 / gpu))
        lines += [f"Below `{H100}/{gpu}`.", "", *rows, ""]
    return "\n".join(lines)


def release_tables(folders: Sequence[str]) -> tuple[releases.Table, ...]:
    """What the sweep's command makes of these recordings."""
    launches = releases.read(ROOT / folder for folder in folders)
    return releases.tables(launches, noise_store=NoiseStore(ROOT / "baselines"))


def sweep_pictures(tables: Sequence[releases.Table]) -> list[Picture]:
    """The sweep's, under names of their own."""
    drawn = release_pictures.pictures(tables)
    return [replace(picture, name=f"sweep-{picture.name}") for picture in drawn]


def _releases() -> str:
    blocks = ["# Releases side by side"]
    for folders in (RELEASES, (f"{H200}/vllm-0.20.2", f"{H200}/vllm-0.25.1")):
        blocks.append(f"    $ pytest-energy sweep --table {' '.join(folders)} -o table")
        tables = release_tables(folders)
        blocks += map(release_table.markdown, tables)
        if folders == RELEASES:
            for picture in sweep_pictures(tables):
                blocks += release_report.shown(picture, "../images")
    return "\n\n".join(blocks) + "\n"


def _prefill_decode() -> str:
    lines = [f"# {prefill_decode.TITLE}", "", prefill_decode.NOTE, ""]
    columns = prefill_decode.COLUMNS
    for title, folder in (("H200", H200), ("H100", H100)):
        rows = prefill_decode.found(collect.read([ROOT / folder]))
        told = [prefill_decode.line(row) for row in rows]
        lines += [f"## {title}", "", f"$ pytest-energy report {folder} -o report", ""]
        lines[-2] = f"    {lines[-2]}"
        lines += [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *told)]
        lines += [""]
    return "\n".join(lines)


WRITERS: Mapping[str, Callable[[], str]] = {
    "launches": _launches,
    "comparisons": _comparisons,
    "verdicts": _verdicts,
    "releases": _releases,
    "prefill-decode": _prefill_decode,
    "published": published_table.page,
}


def page(name: str) -> str:
    """As it is written to docs/generated."""
    title, _, rest = WRITERS[name]().partition("\n\n")
    note = f"Written by `python -m benchmarks.recorded_pages {name}`; "
    note += "[measurements](../measurements.md) says what was measured and what follows."
    return f"{title}\n\n{note}\n\n{rest}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", choices=[*WRITERS, []], metavar="PAGE")
    for name in parser.parse_args().pages or WRITERS:
        PAGES.mkdir(exist_ok=True)
        (PAGES / f"{name}.md").write_text(page(name))


if __name__ == "__main__":
    main()
