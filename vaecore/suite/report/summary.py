"""The report of a study: `results.json` holds everything, the pages and the figures are drawn from it alone."""

import io
import math
import platform
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaecore._store import write_atomically
from vaecore.suite.judging.registry import Registry, family_of
from vaecore.suite.judging.verdict import Verdict
from vaecore.suite.report import page
from vaecore.suite.report.captions import FIGURES, caption
from vaecore.suite.report.terminal import no_verdict, tally
from vaecore.suite.results import FILE, SCHEMA, to_json
from vaecore.suite.statistics.intervals import Estimate, interval, mean, smooth
from vaecore.suite.study import calibration, cleaning, detection
from vaecore.suite.study import contact_sheet as contact
from vaecore.suite.study import trials as sanity
from vaecore.suite.study.draws import CLEAN, CONDITIONS, DRAWS
from vaecore.suite.study.study import PROFILES, Study

BINS = 20
LEVEL = 0.95  # of the intervals in figures, which describe and decide nothing
_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "safetensors", "matplotlib", "pytest")


def gather(study: Study, registry: Registry, verdicts: Sequence[Verdict], *, pilot: bool) -> dict[str, Any]:
    """Everything that the report says, as plain values."""
    wins = sanity.trials(study)
    return {
        **verdicts_alone(study, registry, verdicts, pilot=pilot),
        "conditions": _of_conditions(study, CONDITIONS),
        "error_by_confidence": _error_by_confidence(study),
        "sanity_flags": [*sanity.flags(study), *cleaning.flags(study)],
        "trials": {sweep: [_of_trial(trial, wins) for trial in row] for sweep, row in sanity.SWEEPS.items()},
        "weaker_attacks": [[_of_trial(trial, wins) for trial in pair] for pair in sanity.WEAKER],
        "detection": detection.gather(study),
        "cleaning": cleaning.gather(study),
        "contact_sheet": contact.gather(study),
        "decisions": calibration.gather(study),
        "wall_seconds": _wall_seconds(study),
    }


def verdicts_alone(study: Study, registry: Registry, verdicts: Sequence[Verdict], *, pilot: bool) -> dict[str, Any]:
    """What there is to say of claims that are all a user's own: verdicts, and the conditions that they looked at."""
    looked_at = {condition for verdict in verdicts for condition in verdict.conditions}
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": _git_revision(),
        "command": _command(study, registry, pilot=pilot),
        "pilot": pilot,
        "dataset": {
            "name": study.test.name,
            "why": study.dataset.why,
            "test_images": len(study.test),
            "test_digest": study.test.digest,
            "train_digest": study.train.digest if study.trained else None,
        },
        "registry_digest": registry.digest,
        "families": dict(registry.families),
        "bounds": _of_bounds(study, registry),
        "profile": study.profile.name,
        "draws": DRAWS,
        "precision": study.precision,
        "seeds": study.seeds,
        "images": {name: study.count(name) for name in CONDITIONS},
        "models": {
            "vae": _without_folder(study.vae or "reference"),
            "classifier": _without_folder(study.classifier or "reference"),
            "fixed": study.fixed,
            "digests": [{"vae": run.vae_digest, "classifier": run.classifier_digest} for run in study.runs],
        },
        "intervals_cover": study.covers,
        "accuracy_per_run": [study.accuracy(run) for run in study.runs],
        "claims": [_of_claim(registry, verdict) for verdict in verdicts],
        "not_concluded": no_verdict(study, registry, verdicts),
        "conditions": _of_conditions(study, [name for name in CONDITIONS if name in looked_at]),
        "environment": _environment(study),
        "wall_seconds": _wall_seconds(study),
    }


def write(folder: Path, results: Mapping[str, Any], study: Study | None = None) -> None:
    """Write results.json, the pages and the figures, each file whole or not at all; results.json comes last.

    study: whose store keeps the figures and whose workers draw them; None draws them here.
    """
    from claims import drawings  # noqa: PLC0415  # matplotlib takes a second to import, which workers should not pay

    folder.mkdir(parents=True, exist_ok=True)
    drawn = drawings.drawn(results, study)
    whole = page.render(results, drawn)
    for name, content in drawn.items():
        write_atomically(folder / name, content)
    write_atomically(folder / page.FILE, whole.encode())
    for left in {f"{name}.{suffix}" for name in FIGURES for suffix in drawings.SUFFIXES} - set(drawn):
        (folder / left).unlink(missing_ok=True)  # of an earlier study, which had more to show
    if results["decisions"] is None:
        (folder / "decisions.md").unlink(missing_ok=True)
    else:
        write_atomically(folder / "decisions.md", calibration.page(results).encode())
    write_atomically(folder / "detection.md", detection_page(results).encode())
    write_atomically(folder / "summary.md", summary(results).encode())
    write_atomically(folder / FILE, to_json(results))


def write_verdicts(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json and the page of `verdicts_alone`, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / page.FILE, page.render(results, {}).encode())
    write_atomically(folder / FILE, to_json(results))


def summary(results: Mapping[str, Any]) -> str:
    """The verdicts as a Markdown page."""
    dataset, verdicts = results["dataset"], results["claims"]
    lines = io.StringIO()

    def line(text: str = "") -> None:
        lines.write(text + "\n")

    line(f"# Claims on {dataset['name']}, {'pilot' if results['pilot'] else 'profile ' + results['profile']}")
    line()
    seeds, counts = results["seeds"], [one["verdict"] for one in verdicts]
    runs = f"{len(seeds)} training runs (seeds {seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else "1 training run"
    line(f"{tally(counts)}. {runs},")
    images = ", ".join(f"{count:,} {name}" for name, count in results["images"].items() if name in (CLEAN, "lbfgs"))
    line(f"test images: {images}; {results['draws']} draws an image. Registry {results['registry_digest'][:12]}.")
    if results["bounds"] is not None:
        bounds = results["bounds"]
        line(f"Bounds: {bounds['file']}, digest {bounds['digest'][:12]}, set by a pilot on {bounds['date']}.")
        lines.writelines(f"Note: {note}.\n" for note in bounds["notes"])
    models = results["models"]
    line(f"Models: VAE {models['vae']}, classifier {models['classifier']}; reconstructions in {results['precision']}.")
    line(f"Intervals cover {results['intervals_cover']}.")
    accuracies = ", ".join(f"{value:.4f}" for value in results["accuracy_per_run"])
    line(f"Accuracy of the classifier on all {dataset['test_images']:,} test images, run by run: {accuracies}.")
    for family in dict.fromkeys(family_of(verdict["claim"]) for verdict in verdicts):
        level = next(verdict["level"] for verdict in verdicts if family_of(verdict["claim"]) == family)
        line(f"\n## {family}. {results['families'][family]}\n")
        line(f"Intervals at level {level:.4f} each, 0.95 for the family.\n")
        line("| claim | kind | sentence | estimand | estimate | interval | bound | verdict | runs x images |")
        line("|---|---|---|---|---|---|---|---|---|")
        for one in verdicts:
            if family_of(one["claim"]) == family:
                line(
                    f"| {one['claim']} | {one['kind']} | {_cell(one['sentence'])} | {_cell(one['estimand'])}"
                    f" | {one['estimate']:.3f}"
                    f" | {one['low']:.3f} to {one['high']:.3f} | {one['bound']} | **{one['verdict']}**"
                    f" | {one['runs']} x {one['images']} |"
                )
    line("\n## Conditions\n")
    line("Accuracy of the classifier, success of the attack, mean size of the change, share with one label.")
    line("Images on which L-BFGS failed in a run are left out of its row and of its twin's; unsuccessful counts all.\n")
    line(
        "| condition | images | accuracy | success | unsuccessful | mean L2 | consistent | mean MSE | mean KL (nats) |"
    )
    line("|---|---|---|---|---|---|---|---|---|")
    for name, one in results["conditions"].items():
        line(
            f"| {name} | {one['images']} | {one['accuracy']:.3f} | {one['success']:.3f} | {one['unsuccessful']}"
            f" | {one['l2']:.2f}"
            f" | {one['consistent']:.3f} | {one['mse']:.4f} | {one['kl']:.1f} |"
        )
    line("\n## Can the attacks be believed?\n")
    for flag in results["sanity_flags"] or ["No sanity flag was raised."]:
        line(f"- {flag}")
    line("\nAttacks that know less, beside the one that knows all; success on the first run's images:\n")
    line("| attack | success | beside | success | images |\n|---|---|---|---|---|")
    for weak, strong in results["weaker_attacks"]:
        shares = weak["success"], strong["success"]
        line(f"| {weak['name']} | {shares[0]:.2f} | {strong['name']} | {shares[1]:.2f} | {weak['images']} |")
    line(_figure(results, "convergence"))
    line("\n## Which score detects which set?\n")
    line("AUROC with intervals, AUPR-in, AUPR-out and FPR95: [detection.md](detection.md).\n")
    line(_figure(results, "detection-matrix"))
    _cleaning_section(results, line)
    line("\n## Whose confidence can be believed?\n")
    if results["decisions"] is None:
        line("Without training images there is nothing to fit temperatures and regressions on.")
    else:
        line("NLL, Brier score and its parts, ECE and AURC of every judge: [decisions.md](decisions.md).\n")
        line(_figure(results, "reliability") + "\n" + _figure(results, "risk-coverage"))
    line("\n## Figures")
    for name in ("distinct-labels", "contact-sheet", "error-by-confidence"):
        line(_figure(results, name))
    if results["not_concluded"]:
        line("\n## No verdict\n")
        for name, reason in results["not_concluded"].items():
            line(f"- {name}: {reason}")
    made = results["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in made["packages"].items())
    line(f"\n## Provenance\n\n{results['made']}, git {results['git_revision'] or 'unknown'}; Python {made['python']},")
    line(f"{packages}; {made['processor']}, {made['threads']} threads, GPU: {made['gpu'] or 'none'}.")
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results["wall_seconds"].items())
    line(f"Wall time, with what the cache held: {times}. Test set digest {dataset['test_digest']}.")
    return lines.getvalue()


def _figure(results: Mapping[str, Any], name: str) -> str:
    """A figure and, below it, its caption."""
    said = caption(results, name)
    return f"\n![{said.title}]({name}.png)\n\n{said}"


def _cleaning_section(results: Mapping[str, Any], line: Callable[[str], None]) -> None:
    """Accuracy behind each purifier, under attackers who ignore it and under one who does not."""
    found = results["cleaning"]
    accuracy, attacked = found["accuracy"], found["attacked"]
    line("\n## What does cleaning buy?\n")
    line("Accuracy, all runs; the attacker ignores the purifier.\n")
    names = list(dict.fromkeys(name for row in accuracy.values() for name in row))
    line(f"| condition | images | {' | '.join(names)} |\n|---|---:|{'---:|' * len(names)}")
    for condition, row in accuracy.items():
        shown = " | ".join(f"{row[name]['accuracy']:.3f}" if name in row else "-" for name in names)
        line(f"| {condition} | {found['images'][condition]} | {shown} |")
    line(f"\nOf {cleaning.SEARCH} the first {found['searched']} images.\n")
    line(
        "Accuracy on the first run under PGD that ignores the purifier / through it / under Square, where the purifier"
    )
    line("has no gradient of its own / right under all of these.\n")
    sizes = [row["epsilon"] for row in next(iter(attacked.values()))]
    line(f"| purifier | images | {' | '.join(f'epsilon {size:g}' for size in sizes)} |")
    line(f"|---|---:|{'---:|' * len(sizes)}")
    for name, rows in attacked.items():
        kinds = [key for key in (*cleaning.KNOWING, "worst") if key in rows[0]]
        cells = [" / ".join(f"{row[key]['accuracy']:.2f}" for key in kinds) for row in rows]
        line(f"| {name} | {rows[0]['images']} | {' | '.join(cells)} |")
    line(_figure(results, "accuracy-by-epsilon"))
    line(_figure(results, "cleaned-images"))


def detection_page(results: Mapping[str, Any]) -> str:
    """The matrix of scores and sets, one table for each measure, as a Markdown page."""
    found = results["detection"]
    cells, counts = found["cells"], found["images"]
    sets = [*next(iter(cells.values()))]
    lines = [f"# Which score detects which set? {results['dataset']['name']} inside", ""]
    lines += [f"Means over {len(results['seeds'])} training runs; higher scores are more anomalous.", ""]
    lines += [f"Images: {', '.join(f'{name} {count:,}' for name, count in counts.items())}.", ""]
    lines += [f"- **{name}**: {text}" for name, text in found["about"].items()]

    def table(title: str, show: Callable[[Mapping[str, float]], str]) -> None:
        head = [f"\n## {title}\n", f"| score | {' | '.join(sets)} |", "|---|" + "---:|" * len(sets)]
        lines.extend(head)
        lines.extend(f"| {name} | {' | '.join(show(row[one]) for one in sets)} |" for name, row in cells.items())

    table(
        f"AUROC, with {found['level']:.0%} intervals over runs and images (0.5: no better than chance)",
        lambda cell: f"{_share(cell['auroc'])} [{_share(cell['low'])}, {_share(cell['high'])}]",
    )
    table("AUPR-out: average precision, images outside as positives", lambda cell: _share(cell["aupr_out"]))
    table("AUPR-in: average precision, images inside as positives", lambda cell: _share(cell["aupr_in"]))
    table("FPR95: share outside that passes where 95% inside do", lambda cell: _share(cell["fpr95"]))
    lines += [_figure(results, name) for name in ("score-histograms", "latent-space", "extreme-images")]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _of_bounds(study: Study, registry: Registry) -> dict[str, Any] | None:
    """The file that bounds of the user's own data came from; None where they are registered, or there are none."""
    given = registry.bounds
    if given is None:
        return None
    facts = {"file": given.file.name, "digest": given.digest, "date": str(given.pilot["date"])}
    return {**facts, "notes": given.notes(study, registry)}


def _of_claim(registry: Registry, verdict: Verdict) -> dict[str, Any]:
    claim = registry.claims[verdict.claim]
    facts = {"kind": claim.kind, "sentence": claim.sentence, "estimand": claim.estimand, "source": claim.source}
    background = {"pilot": claim.pilot, "registered": claim.registered, "reported": claim.reported}
    no_effect = {"low": claim.no_effect.low, "high": claim.no_effect.high}
    return {**verdict.to_json(), **facts, **background, "no_effect": no_effect}


def _of_conditions(study: Study, names: Sequence[str]) -> dict[str, Any]:
    return {name: _of_condition(study, name) for name in names if len(study.found(name)) > 1}


def _wall_seconds(study: Study) -> dict[str, float]:
    return {stage: round(seconds, 1) for stage, seconds in study.wall_seconds.items()}


def _of_condition(study: Study, name: str) -> dict[str, Any]:
    table = study.paired(name)[0]
    distinct = table.distinct
    bars = [interval(mean(distinct == count), LEVEL) for count in range(1, DRAWS + 1)]
    return {
        "images": distinct.shape[1],
        "accuracy": float(1 - table.wrong.mean()),
        "success": float(study.table(name)["success"].mean()),
        "unsuccessful": int((~study.table(name)["success"]).sum()),
        "l2": float(table["l2"].mean()),
        "consistent": float(table.consistent.mean()),
        "mse": float(table.mse.mean()),
        "kl": float(table["kl"].mean()),
        "distinct_labels": [{"share": bar.estimate, "low": bar.low, "high": bar.high} for bar in bars],
    }


def _of_trial(trial: sanity.Trial, wins: Mapping[sanity.Trial, sanity.Wins]) -> dict[str, Any]:
    won = wins[trial]
    return {"name": str(trial), **asdict(trial), "success": float(won.mean()), "images": len(won)}


def _error_by_confidence(study: Study) -> list[dict[str, Any]]:
    """Mean MSE of clean images in equal bins of confidence, the last one closed, with an interval and a count."""
    clean = study.table(CLEAN)
    error = clean.mse
    number = np.minimum((clean["confidence"] * BINS).astype(int), BINS - 1)
    rows = []
    for k in range(BINS):
        member = (number == k).astype(float)
        images = int(member.sum())
        found = interval(_mean_within(error, member, images // len(member)), LEVEL)
        ends = {"from": k / BINS, "to": (k + 1) / BINS}
        rows.append({**ends, "count": images, "mse": found.estimate, "low": found.low, "high": found.high})
    return rows


def _mean_within(values: Any, member: Any, images: int) -> Estimate:
    return smooth([values * member, member], lambda means: means[0] / means[1], count=images)


def _command(study: Study, registry: Registry, *, pilot: bool) -> str:
    """The command line that gives these results; of a user's files only the names, as folders are his own affair."""
    profile = study.profile
    words = ["pytest", "claims", "--dataset", _without_folder(study.dataset.name), "--profile", profile.name]
    if profile.runs != PROFILES[profile.name].runs:
        words += ["--runs", str(profile.runs)]
    words += ["--device", study.device.type]
    words += [] if study.precision == "float32" else ["--precision", study.precision]
    for text, kind in study.given:
        words += [] if text is None else [f"--{kind}", _without_folder(text)]
    for source in study.ood:
        words += ["--ood", _without_folder(source)]
    words += [] if registry.bounds is None else ["--bounds", registry.bounds.file.name]
    return shlex.join([*words, "--pilot"] if pilot else words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _without_folder(text: str) -> str:
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def _environment(study: Study) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "workers": study.workers,
        "gpu": torch.cuda.get_device_name(study.device) if study.device.type == "cuda" else None,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def _git_revision() -> str | None:
    """Revision of the code, with a mark where it has changes that are not committed; None outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parents[1]))
    try:
        # Installed, this file may lie within a repository of somebody else's, which does not track it.
        subprocess.run((*git, "ls-files", "--error-unmatch", __file__), capture_output=True, check=True)  # noqa: S603
        found = subprocess.run((*git, "rev-parse", "HEAD"), capture_output=True, text=True, check=True)  # noqa: S603
        changed = subprocess.run(  # noqa: S603
            (*git, "status", "--porcelain", "--", "*.py", "*.toml"), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + (" with changes" if changed.stdout.strip() else "")
