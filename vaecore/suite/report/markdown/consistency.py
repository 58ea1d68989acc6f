"""Family A: what each detector makes of each condition, at all thresholds and at fixed rates of false alarms."""

from collections.abc import Callable, Mapping
from typing import Any


def section(results: Mapping[str, Any], line: Callable[[str], None]) -> None:
    """Write the section of the summary, whose results they are; line: called with each line."""
    line("\n## What detects which attack?\n")
    line("AUROC against clean images / against noise as large / against clean images, where the attack succeeded in")
    line("all runs. Failed: share of images on which the attack failed, which are among those of the first two.\n")
    names = list(results["signals"][0]["clean"])
    line(f"| condition | failed | {' | '.join(names)} |")
    line(f"|---|---:|{'---:|' * len(names)}")
    for row in results["signals"]:
        kinds = [row[kind] for kind in ("clean", "noise", "successes")]
        cells = [" / ".join("-" if kind is None else f"{kind[name]:.3f}" for kind in kinds) for name in names]
        line(f"| {row['condition']} | {row['failed']:.3f} | {' | '.join(cells)} |")
    evasion = results["evasion"]
    if evasion is None:
        return
    line("\nAn AUROC flatters a detector whose attacker needs to pass one threshold. So, by alarms with thresholds")
    line("from images held out: the share of clean images that raise each, and of attacked images that are")
    line("misclassified and raise none. Labels: more distinct labels than that. All: all four at a rate of false")
    line("alarms, without MagNet's two.\n")
    attacked = evasion["attacked"]
    line(f"| alarm | clean images | {' | '.join(attacked)} |")
    line(f"|---|---:|{'---:|' * len(attacked)}")
    for alarm, false in evasion["false"].items():
        cells = [f"{row[alarm]['estimate']:.3f}" for row in attacked.values()]
        line(f"| {alarm} | {false['estimate']:.3f} | {' | '.join(cells)} |")
