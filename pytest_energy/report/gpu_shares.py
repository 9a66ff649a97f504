"""How the energy of one engine spreads over several GPUs."""

from collections.abc import Mapping

MAX_IMBALANCE = 0.10  # GPUs of one model were found to differ by up to 11 %


def imbalance(gpu_power_w: Mapping[str, float]) -> float | None:
    """By how much the most loaded GPU's power exceeds the least loaded one's, relative.

    Args:
        gpu_power_w: mean power by UUID.

    Returns:
        None for fewer than two GPUs.
    """
    least = min(gpu_power_w.values(), default=0.0)
    return max(gpu_power_w.values()) / least - 1 if len(gpu_power_w) > 1 and least > 0 else None


def gpu_shares(gpu_power_w: Mapping[str, float]) -> str:
    """Each GPU's share of the energy, and a note if they differ by more than 10 %.

    Empty for fewer than two GPUs.
    """
    unequal = imbalance(gpu_power_w)
    if unequal is None:
        return ""
    total_w = sum(gpu_power_w.values())
    shares = ", ".join(
        f"{uuid[:12]} {100 * power_w / total_w:.1f} % ({power_w:.0f} W)"
        for uuid, power_w in gpu_power_w.items()
    )
    if unequal <= MAX_IMBALANCE:
        return shares
    most = max(gpu_power_w, key=gpu_power_w.__getitem__)
    least = min(gpu_power_w, key=gpu_power_w.__getitem__)
    return (
        f"{shares}; IMBALANCE: {most[:12]} uses {100 * unequal:.1f} % more energy than {least[:12]}"
    )
