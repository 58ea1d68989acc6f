"""The figures of a report, a row each: caption, function that draws it, claims it belongs to, section it stands in."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vaecore.suite.text import counted, intensity

Results = Mapping[str, Any]
SUFFIXES = ("png", "svg")  # of a figure's files
# Parts of the results that no figure shows.
NOT_SHOWN = {"made", "version", "source_digest", "git_revision", "command", "environment"}
NOT_SHOWN |= {"wall_seconds", "task_seconds"}


@dataclass(frozen=True)
class Caption:
    """A figure's caption. title: what it shows, without a stop. text: how to read it. count: of how many."""

    title: str
    text: str
    count: str

    def __str__(self) -> str:
        """The whole, as sentences."""
        return f"{self.title}. {self.text} n: {self.count}."


@dataclass(frozen=True)
class Figure:
    """A figure of the report: a row of FIGURES.

    caption: gives it for results. draw: module and function in this folder. claims: a pattern of the ids of the claims
    that it belongs to. needs: the part of the results that it shows. section: of the pages in Markdown
    (`report/markdown`), where it stands.
    """

    caption: Callable[[Results], Caption]
    draw: str
    claims: str
    needs: str
    section: str


def shown(results: Results) -> list[str]:
    """The figures that these results have, in the order in which they are shown."""
    return [name for name, figure in FIGURES.items() if results.get(figure.needs)]


def caption(results: Results, name: str) -> Caption:
    """The caption of a figure by its file's name, without suffix."""
    return FIGURES[name].caption(results)


def figures_of(claim: str, names: Iterable[str]) -> list[str]:
    """Which of these figures belong to a claim."""
    return [name for name in names if re.fullmatch(FIGURES[name].claims, claim)]


def _distinct_labels(results: Results) -> Caption:
    counts = [results["conditions"][name]["images"] for name in results["panels"] if name in results["conditions"]]
    return Caption(
        "Distinct labels over the reconstructions of an image",
        f"Bars: share of images whose {counted(results['draws'], 'reconstruction')} got so many distinct labels; one"
        " label means consistent. A panel for each condition, hatched where there is noise and no attacker. Whiskers:"
        " 95% intervals over runs and images.",
        f"{_runs(results)} x {_images(counts)}",
    )


def _consistency_by_size(results: Results) -> Caption:
    return Caption(
        "How much of the lost consistency is the size of the noise",
        "Left: share of images whose reconstructions all get one label, under FGSM and under random signs of the same"
        " size. Right: the fall under noise over the fall under FGSM; it nears 1 as both shares near 0, where it says"
        " little. Whiskers: 95% intervals over runs and images.",
        f"{_runs(results)} x {_images(row['images'] for name, row in results['conditions'].items() if 'sign' in name)}",
    )


def _error_by_confidence(results: Results) -> Caption:
    rows = results["error_by_confidence"]
    return Caption(
        "Reconstruction error against confidence on clean images",
        f"Below: mean pixel MSE in {len(rows)} bins of the classifier's max softmax, with 95% intervals over runs and"
        " images; an interval of few images may leave the frame. Above: how many images each bin holds.",
        f"{_runs(results)}, {counted(sum(row['count'] for row in rows), 'image')} in all",
    )


def _convergence(results: Results) -> Caption:
    trials, weaker = results["trials"], [weak for weak, _ in results["weaker_attacks"]]
    budget, steps, draws = trials["steps"][0]["epsilon"], trials["draws"][0]["steps"], trials["steps"][0]["draws"]
    return Caption(
        "Success of the adaptive attack as its effort grows",
        "Share of images won as the attacker may do more: epsilon, steps, draws a step (EOT). Markers alone: attacks"
        " that know less. Success must not fall as effort grows, and nothing that knows less may win more. Elsewhere"
        f" epsilon is {intensity(budget)}, with {counted(steps, 'step', 'd')} and {counted(draws, 'draw', 'd')}.",
        f"{counted(weaker[0]['images'], 'image', 'd')} of the run of seed {results['seeds'][0]}",
    )


def _contact_sheet(results: Results) -> Caption:
    sheet = results["contact_sheet"]
    return Caption(
        "Contact sheet: images as given, attacked and noisy, and what each draw makes of them",
        f"A block for each of the first {len(sheet['labels'])} test images looked at, not chosen. First column: the"
        " image under each condition, with its true label and the label given; then its reconstructions, draw by draw,"
        " with the label given above each. Wrong labels are orange, bold and marked x.",
        f"{counted(len(sheet['labels']), 'image')}, {counted(len(sheet['rows'][0]['draw_label'][0]), 'draw')} each, of"
        f" the run of seed {results['seeds'][0]}",
    )


def _detection_matrix(results: Results) -> Caption:
    detection = results["detection"]
    sets = next(iter(detection["cells"].values()))
    return Caption(
        "Which score detects which set outside",
        "AUROC of every score (rows) on every set (columns): purple above 0.5, orange below, where the score points"
        " backwards; 0.5 is no better than chance. Sets stand in groups: near, far, covariate shift. Means over runs.",
        f"{_runs(results)} x {_images(detection['images'][name] for name in sets)} outside against"
        f" {detection['images'][detection['inside']]:,} inside",
    )


def _score_histograms(results: Results) -> Caption:
    return Caption(
        "Scores inside and outside",
        "Each score's distribution over the images inside (grey, filled), over the set that it detects best (blue,"
        " solid) and over the one that it detects worst (orange, dashed), with their AUROC. Higher is more anomalous;"
        " the outermost bins hold what lies beyond.",
        f"{_images(results['detection']['images'].values())} of each set, run of seed {results['seeds'][0]}",
    )


def _latent_space(results: Results) -> Caption:
    latent = results["detection"]["latent"]
    return Caption(
        "Posterior means in two dimensions",
        f"The first two principal components of {latent['of']} images; grey dots: test images, markers: images outside"
        " and attacked images.",
        f"{_images(len(rows) for rows in latent['points'].values())} of each, run of seed {latent['seed']}",
    )


def _extreme_images(results: Results) -> Caption:
    detection = results["detection"]
    ends = next(iter(next(iter(detection["extremes"].values())).values()))["least"]["pixels"]["shape"][0]
    return Caption(
        "The least and the most anomalous images of each set",
        f"The {counted(ends, 'image')} with the lowest and the {ends} with the highest score of each set, by two"
        " scores; scores rise from left to right, and their range stands below.",
        f"{_images(detection['images'][name] for name in detection['extremes'])} of each set, run of seed"
        f" {results['seeds'][0]}",
    )


def _accuracy_by_epsilon(results: Results) -> Caption:
    rows = [row for rows in results["cleaning"]["attacked"].values() for row in rows]
    return Caption(
        "Accuracy behind each purifier as the attack grows",
        "Solid, circles: PGD that does not know the purifier. Dashed, squares: PGD through it. Triangles: Square,"
        " upside down the discrete search behind rounding. Dotted, crosses: no purifier. Bands: 95% intervals over"
        " images.",
        f"{_images(row['images'] for row in rows)}, run of seed {results['seeds'][0]}",
    )


def _cleaned_images(results: Results) -> Caption:
    return Caption(
        "Images attacked and cleaned",
        "A test image of each class: clean, attacked, and both cleaned, with the label given and its confidence. Wrong"
        " labels are orange, bold and marked x.",
        f"{counted(len(results['cleaning']['strip']['labels']), 'image')}, run of seed {results['seeds'][0]}",
    )


def _reliability(results: Results) -> Caption:
    return Caption(
        "Reliability: accuracy against confidence",
        f"Share of answers that are right in {results['decisions']['bins']} bins of equal width, by judge, with 95%"
        " intervals over runs and images; on the diagonal confidence is what it says. Below each: images in each bin,"
        " where it has any.",
        f"{_runs(results)} x {_images(results['decisions']['images'].values())}",
    )


def _risk_coverage(results: Results) -> Caption:
    return Caption(
        "Mistakes left as the most doubtful images are refused",
        "Share of wrong answers against the share of images answered, by what is taken for doubt; lower is better."
        " Areas under the curves stand in the titles, in the legend's order. Bands: 95% intervals at each threshold.",
        f"{_runs(results)} x {_images(results['decisions']['images'].values())}",
    )


def _runs(results: Results) -> str:
    return counted(len(results["seeds"]), "training run")


def _images(counts: Iterable[int]) -> str:
    ordered = sorted(set(counts)) or [0]
    return f"{ordered[0]:,} to " * (len(ordered) > 1) + counted(ordered[-1], "image")


FIGURES = {  # in the order in which they are shown
    "distinct-labels": Figure(_distinct_labels, "consistency.distinct_labels", r"A.*", "conditions", "figures"),
    "consistency-by-size": Figure(
        _consistency_by_size, "consistency.consistency_by_size", r"A(2|4|6|7).*", "by_size", "figures"
    ),
    "contact-sheet": Figure(_contact_sheet, "consistency.contact_sheet", r"A.*", "contact_sheet", "figures"),
    "convergence": Figure(_convergence, "consistency.convergence", r"A(13|14|16|22|23).*|D5.*", "trials", "trials"),
    "error-by-confidence": Figure(
        _error_by_confidence, "consistency.error_by_confidence", r"B[1-59]", "error_by_confidence", "figures"
    ),
    "detection-matrix": Figure(_detection_matrix, "outside.detection_matrix", r"C.*", "detection", "detection"),
    "score-histograms": Figure(_score_histograms, "outside.score_histograms", r"C.*", "detection", "scores"),
    "latent-space": Figure(_latent_space, "outside.latent_space", r"C[2-4].*|E[1-4].*", "detection", "scores"),
    "extreme-images": Figure(_extreme_images, "outside.extreme_images", r"C.*", "detection", "scores"),
    "accuracy-by-epsilon": Figure(_accuracy_by_epsilon, "cleaning.accuracy_by_epsilon", r"D.*", "cleaning", "cleaning"),
    "cleaned-images": Figure(_cleaned_images, "cleaning.cleaned_images", r"D.*", "cleaning", "cleaning"),
    "reliability": Figure(_reliability, "decisions.reliability_diagrams", r"B[6-8]|E[568].*", "decisions", "decisions"),
    "risk-coverage": Figure(_risk_coverage, "decisions.risk_coverage", r"E7.*", "decisions", "decisions"),
}
