"""What `results.json` holds, as every reader and writer of it sees it: plain values under one schema number."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaecore.suite.shape import ListOf, MapOf, Number, fault
from vaecore.suite.text import visible

SCHEMA = 3  # 3: facts, titles and threat models of conditions, so that nothing but results is needed to draw them
FILE = "results.json"


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become None, and tuples become lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(results: Mapping[str, Any]) -> bytes:
    """Results as the content of the file."""
    return (json.dumps(plain(results), indent=1, allow_nan=False) + "\n").encode()


def number(value: float | None) -> float:
    """A number of results, which JSON may have turned into null, as it does NaN."""
    return math.nan if value is None else float(value)


def load(path: Path, *, oldest: int = SCHEMA) -> dict[str, Any]:
    """Read the results that a report's folder, or the file in it, holds; oldest: the first schema that will do.

    All that `compare` reads of them is there and of its type and, under the present schema, all that the page reads.
    Texts are printable. Raises ValueError where there are none, where they are damaged, or not of this version.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} must be a {FILE} or the folder of a report; there is no file {file}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} must be what `pytest claims` wrote; it can't be read: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if type(schema) is not int or not oldest <= schema <= SCHEMA:
        raise ValueError(
            f"{file} must have schema {SCHEMA}; got {schema!r} (written by another version: run `pytest claims` again,"
            " which takes what it can from the cache)"
        )
    if damage := damage_of(found):
        raise ValueError(f"{file} must be what `pytest claims` wrote; {damage} (damaged? run `pytest claims` again)")
    results: dict[str, Any] = visible(found)
    return results


def damage_of(results: Mapping[str, Any]) -> str:
    """What a reader of results of a known schema would stumble on, in words; empty where there is nothing."""
    if results["schema"] < SCHEMA:
        return fault(results, _COMPARED)
    shapes = (_COMPARED, _DRAWN, _SECTIONS) if "trials" in results else (_COMPARED, _DRAWN)
    return next(filter(None, (fault(results, shape) for shape in shapes)), "") or _mismatch(results)


def _mismatch(results: Mapping[str, Any]) -> str:
    """Parts of the results that do not belong together, in words; empty where all do."""
    runs = {name: len(results[name]) for name in ("seeds", "accuracy_per_run")}
    runs["models.digests"] = len(results["models"]["digests"])
    if len(set(runs.values())) > 1:
        return f"{', '.join(runs)} must be of as many runs; got {', '.join(map(str, runs.values()))}"
    claims, detection = results["claims"], results.get("detection") or {"cells": {}}
    sets = {name for row in detection["cells"].values() for name in row}
    conditions = {*results["conditions"], *(name for claim in claims for name in claim["conditions"])}
    named = [("threats", results["threats"], conditions)]
    named += [(f"detection.cells.{score}", row, sets) for score, row in detection["cells"].items()]
    if "trials" in results:
        named.append(("detection.images", detection["images"], {*sets, *detection["extremes"], detection["inside"]}))
    lacking = ((where, sorted(names - set(of))) for where, of, names in named)
    return next((f"{where} must have {names[0]}, which is missing" for where, names in lacking if names), "")


# Attacks on a purifier, by what they know of it; right under all of them.
ATTACKS = ("ignoring", "through", "flipped", "queried", "worst")

# What readers take from the results; they may hold more.
_MAYBE = (None, Number())  # null where it is not defined
_COUNT, _SIZE, _SHARE = Number(0, whole=True), Number(1, whole=True), Number(0, 1)
_SPREAD = {
    "estimate": Number(),
    "standard_error": Number(0),
    "freedom": Number(1e-9),
    "images": _SIZE,
    "count": _SIZE,
    "limits": ListOf(_MAYBE, 2, 2),
}
_COMPARED = {  # by `vaecore compare`
    "made": str,
    "version?": str,
    "source_digest?": str,
    "git_revision": (None, str),
    "pilot": bool,
    "dataset": {"name": str, "test_images": _COUNT, "test_digest": str, "train_digest": (None, str), "train_use?": str},
    "registry_digest": str,
    "error_rate?": str,
    "bounds": (None, {"file": str, "digest": str}),
    "profile": str,
    "budget?": _SHARE,
    "draws": _COUNT,
    "precision": str,
    "seeds": ListOf(_COUNT, 1),
    "images": MapOf(_COUNT),
    "models": {"vae": str, "classifier": str, "fixed": bool, "digests": ListOf({"vae": str, "classifier": str})},
    "claims": ListOf(
        {"claim": str, "estimand": str, "message": str, "verdict": str, "runs": _SIZE, "level": _SHARE, "pick?": str}
        | {"stated?": str, "bound?": str}
        | {"estimate": _MAYBE, "low": _MAYBE, "high": _MAYBE, "spreads": ListOf(_SPREAD)}
    ),
    "not_concluded": MapOf(str),
    "environment": {"python": str, "system": str, "processor": str, "gpu": (None, str), "packages": MapOf(str)}
    | {"threads": _COUNT, "workers": _COUNT},
    "conditions": MapOf(dict.fromkeys(("accuracy", "consistent", "l2", "mse"), _MAYBE)),
    "wall_seconds": MapOf(Number(0)),  # which held those of tasks, as "tasks: draws", before there were task_seconds
    "task_seconds?": MapOf(Number(0)),
}
_CELLS = MapOf(MapOf({"auroc": _MAYBE, "low": _MAYBE, "high": _MAYBE}, 1), 1)
_DRAWN = {  # by `vaecore page`, beside that
    "command": str,
    "budget": _SHARE,
    "dataset": {"why": str},
    "families": MapOf(str),
    "bounds": (None, {"date": str, "notes": ListOf(str)}),
    "refused?": str,
    "images": {"clean": _COUNT, "lbfgs": _COUNT},
    "intervals_cover": str,
    "accuracy_per_run": ListOf(_SHARE),
    "claims": ListOf(
        dict.fromkeys(("kind", "sentence", "source", "bound", "registered", "pilot", "reported"), str)
        | dict.fromkeys(("power", "bound_low", "bound_high"), _MAYBE)
        | {"images": _COUNT, "per_run": ListOf(_MAYBE), "conditions": ListOf(str)}
        | {"no_effect": {"low": _MAYBE, "high": _MAYBE}}
        | dict.fromkeys(("same?", "again_supported?"), (None, _SHARE))
        | dict.fromkeys(("why?", "amiss?"), str)
    ),
    "expected_supported?": (None, ListOf(_COUNT, 2, 2)),
    "preconditions?": ListOf(
        {"name": str, "text": str, "message": str, "value": _MAYBE, "least": Number(), "met": bool}
        | {"undermines": ListOf(str)}
    ),
    "threats": MapOf(str),
    "conditions": MapOf({"images": _COUNT, "success": _MAYBE, "kl": _MAYBE}),
    "sanity_flags?": ListOf(str),
    "weaker_attacks?": ListOf(ListOf({"name": str, "success": _SHARE, "images": _COUNT}, 2, 2), 1),
    "detection?": (None, {"cells": _CELLS}),
}
_MEASURED = {"estimate": _MAYBE, "low": _MAYBE, "high": _MAYBE}
_EFFORT = {"epsilon": Number(), "steps": _COUNT, "draws": _COUNT}
_MEASURES = {"ece_width": {"mean": _SHARE, "calibrated?": _SHARE}}
_SECTIONS = {  # of a report on all claims, by `vaecore page`
    "panels": ListOf(str),
    "error_by_confidence": ListOf({"count": _COUNT}),
    "by_size?": ListOf({"epsilon": Number(), "fgsm": _MEASURED, "sign": _MEASURED, "share": (None, _MEASURED)}, 1),
    "signals?": ListOf(
        {"condition": str, "clean": MapOf(_MAYBE), "noise": (None, MapOf(_MAYBE)), "failed": _SHARE}
        | {"successes": (None, MapOf(_MAYBE))},
        1,
    ),
    "evasion?": (None, {"false": MapOf(_MEASURED), "attacked": MapOf(MapOf(_MEASURED))}),
    "trials": {"steps": ListOf(_EFFORT, 1), "draws": ListOf(_EFFORT, 1)},
    "weaker_attacks": list,
    "contact_sheet": {"labels": ListOf(_COUNT), "rows": ListOf({"draw_label": ListOf(ListOf(_COUNT), 1)}, 1)},
    "detection": {
        "level": _SHARE,
        "inside": str,
        "groups": MapOf(str),
        "images": MapOf(_COUNT),
        "latent": {"of": str, "seed": _COUNT, "points": MapOf(list)},
        "extremes": MapOf(MapOf({"least": {"pixels": {"shape": ListOf(_COUNT, 1)}}}, 1), 1),
    },
    "cleaning": {
        "attacked": MapOf(
            ListOf(
                {"images": _COUNT, "epsilon": Number()} | {f"{attack}?": {"accuracy": _SHARE} for attack in ATTACKS},
                1,
            ),
            1,
        ),
        "certified": {
            "images": _COUNT,
            "accuracy": MapOf(MapOf(ListOf({"radius": Number(), "accuracy": _SHARE}, 1), 1), 1),
        },
        "strip": {"labels": ListOf(_COUNT)},
    },
    "decisions": (None, {"bins": _COUNT, "images": MapOf(_COUNT), "measures": MapOf(MapOf(_MEASURES), 1)}),
}
