"""Units, percentages and counts as every report writes them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_energy.measure.metric import Metric

if TYPE_CHECKING:
    from pytest_energy.report.results import Interval

# Of several verdicts the first stands for all.
PRECEDENCE = (
    "regressed",
    "invalid",
    "not comparable",
    "no baseline",
    "inconclusive",
    "created",
    "changed",
    "unchanged",
    "improved",
    "pass",
)

UNIT = {
    Metric.JOULES_PER_TOKEN: "J/token",
    Metric.TOKENS_PER_S: "tokens/s",
    Metric.IDLE_POWER_W: "W at idle",
}
_FIGURE = {Metric.JOULES_PER_TOKEN: "#.4g", Metric.TOKENS_PER_S: ",.0f", Metric.IDLE_POWER_W: ".1f"}


def figure(metric: Metric, value: float) -> str:
    """A metric's value, without its unit."""
    return format(value, _FIGURE[metric])


def percent(ratio: float) -> str:
    """A ratio as a relative change, "+6.0 %" for 1.06."""
    return f"{100 * (ratio - 1):+.1f} %".replace("-0.0 %", "+0.0 %")


def change_in_words(change: "Interval") -> str:
    """A ratio as a relative change with its interval."""
    low = percent(change.low).removesuffix(" %")
    return f"{percent(change.value)} ({low} to {percent(change.high)})"


def at_idle(power_w: float, without_engine_w: float | None, cpu_cores: float | None) -> str:
    """What an engine at idle costs: "98.1 W, 71.0 W without the engine (+27.1 W), …"."""
    words = [f"{power_w:.1f} W"]
    if without_engine_w is not None:
        more = f"{power_w - without_engine_w:+.1f} W"
        words.append(f"{without_engine_w:.1f} W without the engine ({more})")
    if cpu_cores is not None:
        words.append(f"{cpu_cores:.2f} CPU cores")
    return ", ".join(words)


def without_size(cell: str, batch_size: int) -> str:
    """A cell's name without its batch size, which cells alike in all else share."""
    return cell.replace(f" bs={batch_size} ", " ")


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things, 1 cell or 2 cells; `many` is an irregular plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def cells_in_short(names: Sequence[str]) -> str:
    """Cells that differ in batch size alone together: "llama bs=1,8 512/256, tiny bs=2 64/250"."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for name in names:
        model, _, rest = name.partition(" bs=")
        size, _, workload = rest.partition(" ")
        sizes.setdefault((model, workload), []).append(size)
    return ", ".join(
        f"{of[0]} bs={','.join(found)} {of[1]}" if of[1] else of[0] for of, found in sizes.items()
    )


def listed(one: str, values: Sequence[int]) -> str:
    """Numbers of one kind, at least one: "batch size 8", "batch sizes 1, 8 and 64"."""
    return f"{one}{'s' if len(values) > 1 else ''} {in_a_row([f'{v:,}' for v in values])}"


def in_a_row(names: Sequence[str]) -> str:
    """At least one: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
