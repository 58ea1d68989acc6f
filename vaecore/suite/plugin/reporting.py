"""Results of a run of the claims: facts, verdicts and what was measured, as `results.json` holds them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from vaecore import __version__
from vaecore.suite.budget import DRAWS, text_of, usual_budget
from vaecore.suite.facts import Facts, Precondition
from vaecore.suite.judging.findings import FAMILY
from vaecore.suite.judging.registry import Registry
from vaecore.suite.judging.verdict import Verdict, expected_supported, no_verdict
from vaecore.suite.plugin.code import git_revision, source_digest
from vaecore.suite.results import SCHEMA
from vaecore.suite.study import collect
from vaecore.suite.study.protocol import PROFILES
from vaecore.suite.study.study import Study
from vaecore.suite.text import visible

_LOADED = source_digest()  # before files are edited, while a study runs


def partial(study: Study, head: Mapping[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts, and what was measured under the conditions that they looked at."""
    names = sorted({name for verdict in verdicts for name in verdict.conditions})
    return _shown(study, {**head, **collect.looked_at(study, names)})


def whole(study: Study, head: Mapping[str, Any]) -> dict[str, Any]:
    """Verdicts, and all sections of the report."""
    return _shown(study, {**head, **collect.everything(study)})


def _shown(study: Study, results: dict[str, Any]) -> dict[str, Any]:
    """Results as all that shows them takes them, with the seconds that they took: their texts are printable.

    wall_seconds: of computing in this run, nothing where the cache had all. task_seconds: of each stage's tasks, when
    they were computed, over all processes.
    """
    plan = study.plan
    times = {"wall_seconds": {"computing": plan.wall}, "task_seconds": plan.task_seconds()}
    rounded = {name: {of: round(seconds, 1) for of, seconds in each.items()} for name, each in times.items()}
    shown: dict[str, Any] = visible(results | rounded)
    return shown


def head(study: Study, registry: Registry, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Facts, preconditions and verdicts, whose texts are printable."""
    facts = study.facts
    looked_at = {name for verdict in verdicts for name in verdict.conditions}
    names = [name for verdict in verdicts for name in verdict.conditions] + list(facts.images)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "source_digest": _LOADED,
        "git_revision": git_revision(),
        "command": _command(study, registry),
        "pilot": facts.pilot,
        "dataset": {
            "name": facts.dataset,
            "why": facts.why,
            "test_images": facts.test_images,
            "test_digest": facts.test_digest,
            "train_digest": facts.train_digest,
            "train_images": facts.train_images,
            "train_use": facts.train_use,
        },
        "registry_digest": registry.digest,
        "families": dict(registry.families),
        "bounds": _bounds(facts, registry),
        "refused": registry.refused,
        "profile": facts.profile,
        "budget": facts.budget,
        "draws": facts.draws,
        "precision": facts.precision,
        "seeds": list(facts.seeds),
        "images": dict(facts.images),
        "models": {
            "vae": _without_folder(facts.vae),
            "classifier": _without_folder(facts.classifier),
            "fixed": facts.fixed,
            "digests": study.digests,
        },
        "intervals_cover": facts.covers,
        "accuracy_per_run": study.accuracies(),
        "preconditions": [_precondition(one) for one in study.preconditions(looked_at)],
        "error_rate": registry.error_rate,
        "claims": [_claim(registry, verdict) for verdict in verdicts],
        "expected_supported": expected_supported([verdict.to_json() for verdict in verdicts]),
        "not_concluded": no_verdict(registry, study.lacks, {verdict.claim for verdict in verdicts}),
        "threats": collect.threats(study, names),
        "environment": collect.environment(study),
    }
    shown: dict[str, Any] = visible(found)
    return shown


def _precondition(one: Precondition) -> dict[str, Any]:
    return {**asdict(one), "undermines": sorted(one.undermines), "met": one.met, "message": str(one)}


def _claim(registry: Registry, verdict: Verdict) -> dict[str, Any]:
    claim = registry.claims[verdict.claim]
    texts = {"kind": claim.kind, "sentence": claim.sentence, "estimand": claim.estimand, "source": claim.source}
    texts |= {"stated": claim.stated["estimand"]}
    background = {"pilot": claim.pilot, "registered": claim.registered, "reported": claim.reported}
    no_effect = {"low": claim.no_effect.low, "high": claim.no_effect.high}
    return {**verdict.to_json(), **texts, **background, "no_effect": no_effect}


def _bounds(facts: Facts, registry: Registry) -> dict[str, Any] | None:
    """The file that bounds of the user's own data came from; None where they are registered, or there are none."""
    bounds = registry.bounds
    if bounds is None:
        return None
    source = {"file": bounds.file.name, "digest": bounds.digest, "date": str(bounds.pilot["date"])}
    notes = bounds.notes(facts, registry.digest, registry.claims, registry.error_rate)
    return {**source, "notes": notes}


def _command(study: Study, registry: Registry) -> str:
    """The command line or call that gives these results; of a user's files only the names, as folders are private."""
    setup = study.setup
    profile = setup.protocol.profile
    words = ["pytest", "claims", "--dataset", _without_folder(setup.dataset.name), "--profile", profile.name]
    usual, protocol = PROFILES[profile.name], setup.protocol
    words += [] if profile.runs == usual.runs else ["--runs", str(profile.runs)]
    words += [] if setup.pilot or setup.first_seed == 0 else ["--first-seed", str(setup.first_seed)]
    if (profile.images, profile.clean_images) != (usual.images, usual.clean_images):
        words += ["--images", str(profile.images)]
    words += [] if profile.attack_share is None else ["--attack-share", f"{profile.attack_share:g}"]
    if protocol.budget != usual_budget(setup.test.shape[0]):
        words += ["--epsilon", text_of(protocol.budget)]
    words += [] if protocol.draws == DRAWS else ["--draws", str(protocol.draws)]
    words += ["--device", setup.device.type]
    words += [] if setup.precision == "float32" else ["--precision", setup.precision]
    for text, kind in setup.options:
        words += [] if text is None else [f"--{kind}", _without_folder(str(text))]
    for source in setup.ood:
        words += ["--ood", _without_folder(source)]
    words += [] if registry.error_rate == FAMILY else ["--error-rate", registry.error_rate]
    words += [] if registry.bounds is None else ["--bounds", registry.bounds.file.name]
    if setup.in_python:  # by the names of its objects
        names = [word[2:].replace("-", "_") for word in words[2::2]]
        given = [f"{name}={value!r}" for name, value in zip(names, words[3::2], strict=True)]
        return f"Study.make({', '.join(given)})"
    return shlex.join([*words, "--pilot"] if setup.pilot else words)


def _without_folder(text: str) -> str:
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
