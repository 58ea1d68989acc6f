"""The summary: verdicts, conditions, flags and trials of the attacks, figures, provenance."""

import io
from collections.abc import Mapping
from typing import Any

from vaecore.suite.judging.registry import family_of
from vaecore.suite.judging.verdict import outcome, tally
from vaecore.suite.report import again
from vaecore.suite.report.markdown import cleaning, consistency
from vaecore.suite.report.markdown.parts import figures, literal
from vaecore.suite.results import number
from vaecore.suite.text import counted, intensity


def summary(results: Mapping[str, Any]) -> str:
    """The verdicts as a Markdown page."""
    results = literal(results)
    dataset, verdicts = results["dataset"], results["claims"]
    lines = io.StringIO()

    def line(text: str = "") -> None:
        lines.write(text + "\n")

    line(f"# Claims on {dataset['name']}, {'pilot' if results['pilot'] else 'profile ' + results['profile']}")
    line()
    seeds, words = results["seeds"], [verdict["verdict"] for verdict in verdicts]
    runs = counted(len(seeds), "training run") + (f" (seeds {seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else "")
    line(f"{tally(words)}. {runs},")
    images = ", ".join(f"{results['images'][name]:,} {name}" for name in ("clean", "lbfgs"))
    draws = counted(results["draws"], "draw")
    budget = f"attack budget {intensity(results['budget'])}"
    line(f"{budget}; test images: {images}; {draws} an image. Registry {results['registry_digest'][:12]}.")
    if results["bounds"] is not None:
        bounds = results["bounds"]
        line(f"Bounds: {bounds['file']}, digest {bounds['digest'][:12]}, set by a pilot on {bounds['date']}.")
        lines.writelines(f"Note: {note}.\n" for note in bounds["notes"])
    if refused := results.get("refused"):
        line(f"Note: {refused}.")
    models = results["models"]
    line(f"Models: VAE {models['vae']}, classifier {models['classifier']}; reconstructions in {results['precision']}.")
    line(f"Intervals cover {results['intervals_cover']}; their error rate is {again.error_rate(results)}.")
    lines.writelines(f"{sentence}\n" for sentence in again.sentences(results))
    accuracies = ", ".join(f"{value:.4f}" for value in results["accuracy_per_run"])
    test_images = counted(dataset["test_images"], "test image")
    line(f"Accuracy of the classifier on all {test_images}, run by run: {accuracies}.")
    for one in results.get("preconditions", []):
        undermined = "" if one["met"] else f", so not judged: {', '.join(one['undermines'])}"
        line(f"{'Precondition met' if one['met'] else 'Precondition **not met**'}: {one['message']}{undermined}.")
    for family in dict.fromkeys(family_of(verdict["claim"]) for verdict in verdicts):
        level = next(verdict["level"] for verdict in verdicts if family_of(verdict["claim"]) == family)
        line(f"\n## {family}. {results['families'].get(family, '')}\n")
        line(f"Intervals at level {level:.4f} each.\n")
        line("| claim | kind | sentence | estimand | estimate | interval | bound | verdict | runs x images |")
        line("|---|---|---|---|---|---|---|---|---|")
        for row in verdicts:
            if family_of(row["claim"]) == family:
                line(
                    f"| {row['claim']} | {row['kind']} | {row['sentence']} | {row['estimand']}"
                    f" | {number(row['estimate']):.3f}"
                    f" | {number(row['low']):.3f} to {number(row['high']):.3f} | {row['bound']}"
                    f" | **{outcome(row)}**{', near its bound' if again.is_near(row) else ''}"
                    f" | {row['runs']} x {row['images']} |"
                )
    line("\n## Conditions\n")
    line("Accuracy of the classifier, success of the attack, mean size of the change, share with one label.")
    line("Images on which L-BFGS failed in a run are left out of its row and of its twin's; unsuccessful counts all.\n")
    line(
        "| condition | images | accuracy | success | unsuccessful | mean L2 | consistent | mean MSE | mean KL (nats) |"
    )
    line("|---|---|---|---|---|---|---|---|---|")
    for name, row in results["conditions"].items():
        line(
            f"| {name} | {row['images']} | {row['accuracy']:.3f} | {row['success']:.3f} | {row['unsuccessful']}"
            f" | {row['l2']:.2f}"
            f" | {row['consistent']:.3f} | {row['mse']:.4f} | {row['kl']:.1f} |"
        )
    consistency.section(results, line)
    line("\n## Can the attacks be believed?\n")
    for flag in results["sanity_flags"] or ["No sanity flag was raised."]:
        line(f"- {flag}")
    line("\nAttacks that know less, beside the one that knows all; success on the first run's images:\n")
    line("| attack | success | beside | success | images |\n|---|---|---|---|---|")
    for weak, strong in results["weaker_attacks"]:
        shares = weak["success"], strong["success"]
        line(f"| {weak['name']} | {shares[0]:.2f} | {strong['name']} | {shares[1]:.2f} | {weak['images']} |")
    line(figures(results, "trials"))
    line("\n## Which score detects which set?\n")
    line("AUROC with intervals, AUPR-in, AUPR-out and FPR95: [detection.md](detection.md).\n")
    line(figures(results, "detection"))
    cleaning.section(results, line)
    line("\n## Whose confidence can be believed?\n")
    if results["decisions"] is None:
        line("Without training images there is nothing to fit temperatures and regressions on.")
    else:
        line("NLL, Brier score and its parts, ECE and AURC of every judge: [decisions.md](decisions.md).\n")
        line(figures(results, "decisions"))
    line("\n## Figures")
    line(figures(results, "figures"))
    if results["not_concluded"]:
        line("\n## No verdict\n")
        for name, reason in results["not_concluded"].items():
            line(f"- {name}: {reason}")
    made = results["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    revision = f"git {results['git_revision'] or 'unknown'}"
    line(f"\n## Provenance\n\n{results['made']}, vaecore {results.get('version', 'unknown')}, source digest")
    line(f"{results.get('source_digest', 'unknown')}, {revision}; Python {made['python']},")
    line(f"{packages}; {made['processor']}, {counted(made['threads'], 'thread')}, GPU: {made['gpu'] or 'none'}.")
    line(f"Wall time, with what the cache held: {_times(results['wall_seconds'])}.")
    if tasks := results.get("task_seconds"):
        line(f"Tasks, when they were computed, over all processes: {_times(tasks)}.")
    line(f"Test set digest {dataset['test_digest']}.")
    return lines.getvalue()


def _times(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{of} {spent:.0f} s" for of, spent in seconds.items())
