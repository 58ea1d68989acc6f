"""Evidence of family D: what purifiers make of attacked images, under attackers who ignore them and who do not.

Threat model. White box: the attacker knows classifier, purifier and its parameters, and not the defender's random
numbers. He changes each pixel by epsilon at most, within [0, 1], and wants any wrong label. He who ignores the purifier
runs FGSM, PGD or L-BFGS on the classifier alone. He who does not runs PGD on the whole, with the exact gradient through
the purifier and with draws of its noise that are new in each step (EOT). Where a purifier has no gradient that says
anything he takes another's on the way back (BPDA): the identity's for rounding, the VAE's for the search in its latent
space; and as gradients may still mislead him, he tries Square, which asks for none. All are judged by draws that the
attacker has not seen.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaecore import _noise
from vaecore import _purifiers as _purify
from vaecore._noise import seed_for
from vaecore._purifiers import (
    BitDepth,
    Chain,
    GaussianBlur,
    LatentSearch,
    MedianFilter,
    Purified,
    Threshold,
    VAEPurifier,
)
from vaecore._store import Tensors, digest, source_digest
from vaecore.attacks import _attack as _attacks
from vaecore.attacks import _detector as _adaptive
from vaecore.attacks import _lbfgs, _pgd, _square
from vaecore.attacks._attack import Attack
from vaecore.attacks._pgd import pgd
from vaecore.attacks._square import square
from vaecore.models import _autoencoder
from vaecore.models import _networks as _models
from vaecore.models._autoencoder import fit_autoencoder
from vaecore.models._networks import VAE, Autoencoder, Classify
from vaecore.models._training import reference_configs
from vaecore.reconstruction import _reconstruct
from vaecore.suite.packing import pack
from vaecore.suite.statistics.intervals import beats, interval, mean
from vaecore.suite.study import draws as evidence
from vaecore.suite.study.draws import CHUNK, CONDITIONS, DRAWS, EOT_DRAWS, LBFGS, MINIMAL, Shard, Table, perturb

if TYPE_CHECKING:
    from vaecore.suite.study.study import Run, Study

NONE, MAJORITY, THRESHOLD, SEARCH = "none", "vae-majority", "threshold", "latent-search"
PGD = ("pgd-0.1", "pgd-0.2")
PURIFIED = "purified"  # among the conditions that a study has looked at: an attack on a purifier, purified/NAME/ATTACK
SIZES = (0.05, 0.1, 0.15, 0.2, 0.3)  # of the attacks that the accuracy is shown against
CLEANED = (
    *(name for name in CONDITIONS if name == "clean" or name.startswith(("fgsm-", "sign-"))),
    *PGD,
    LBFGS,
    f"gaussian-{LBFGS}",
)
# What claims take; the rest is only shown, on fewer images.
JUDGED = ("clean", "fgsm-0.2", "fgsm-0.3", "sign-0.1", "sign-0.3", "pgd-0.2", LBFGS)
STEPS, QUERIES = 40, 300
KNOWING = ("ignoring", "through", "queried")  # attacks, by what they know of the purifier
STRIP = ("clean", "fgsm-0.2", "pgd-0.2", LBFGS)  # what the strip of images shows,
SHOWN = ("vae-mean-softmax", THRESHOLD)  # and cleaned by which
LEVEL = 0.95  # of intervals that describe and decide nothing
_PLAIN = "autoencoder"
_IN_STRIP = 10  # classes: more do not fit a page
SEARCHED, SEARCH_QUERIES = 20, 30  # images and queries for the search in latent space, which is dear


def purifiers(
    vae: Autoencoder, autoencoder: Autoencoder | None, classifier: Classify, seed: int
) -> dict[str, Purified]:
    """The classifier behind each purifier, with the defender's noise of a seed."""
    behind = partial(Purified, classifier=classifier, seed=seed)
    draws = VAEPurifier(vae, draws=DRAWS)
    plain = {} if autoencoder is None else {_PLAIN: behind(VAEPurifier(autoencoder))}
    return {
        "vae-posterior-mean": behind(VAEPurifier(vae)),
        "vae-one-draw": behind(VAEPurifier(vae, draws=1), eot=EOT_DRAWS),
        "vae-mean-image": behind(draws),
        "vae-mean-softmax": behind(draws, decide="mean-softmax"),
        MAJORITY: behind(draws, decide="majority"),
        "vae-three-times": behind(Chain([VAEPurifier(vae)] * 3)),
        **plain,
        SEARCH: behind(LatentSearch(vae, steps=50, starts=2), backward=VAEPurifier(vae)),
        THRESHOLD: behind(Threshold()),
        "bit-depth": behind(BitDepth(2)),
        "median": behind(MedianFilter()),
        "blur": behind(GaussianBlur()),
    }


@dataclass
class Cleaning:
    """The evidence of a study, each part made once and kept in the store."""

    study: "Study"
    _tables: dict[str, Table] = field(default_factory=dict)
    _models: dict[int, Mapping[str, Purified]] = field(default_factory=dict)
    _curves_there: bool = False
    _trained: bool = False

    def table(self, condition: str) -> Table:
        """For each purifier, and NONE, whether the label is right: columns (runs, images) of bool.

        condition: of CLEANED, on `count` images; SEARCH is asked about the first SEARCHED of them only. Besides
        `found`: the attack reached its aim, where it has one.
        """
        self.study.looked_at.add(condition)
        if condition not in self._tables:
            self._tables[condition] = self._collect(condition)
        return self._tables[condition]

    def count(self, condition: str) -> int:
        """Test images looked at under a condition: L-BFGS's, or half as many where no claim takes it."""
        profile = self.study.profile
        few = profile.lbfgs_images if condition in MINIMAL else profile.lbfgs_images // 2
        return min(profile.images if condition in JUDGED and condition not in MINIMAL else few, len(self.study.test))

    def attacked(self, name: str, epsilon: float, *, curve: bool = False) -> Table:
        """Whether the label behind a purifier is right under attack: columns (runs, images) of bool.

        through: under PGD on the whole; ignoring: on the classifier alone, and NONE: without the purifier then;
        queried: under Square on the whole, where the purifier has no gradient of its own. curve: for a figure, which
        shows many of them, on the first run and fewer images.
        """
        study = self.study
        study.looked_at.add(f"{PURIFIED}/{name}/pgd-{epsilon:g}")
        self.train()
        chosen = range(1 if curve else len(study.seeds))
        with study.timed("cleaning"), study.meter(f"attack {epsilon:g} through {name}") as advance:
            calls = [(number, name, epsilon, curve) for number in chosen]
            return Table.of(study.each(_attacked, calls, advance))

    def curves(self) -> None:
        """Have all that is shown of `attacked` computed at once, which keeps all workers busy."""
        if self._curves_there:
            return
        self.train()
        with self.study.timed("cleaning"), self.study.meter("attacks through the purifiers") as advance:
            self.study.each(_attacked, self.on_curves(), advance)
        self._curves_there = True

    def on_curves(self) -> list[tuple[Any, ...]]:
        """What `attacked_run` takes for all that is shown of `attacked`."""
        return [(0, name, epsilon, True) for name in self.models(0) for epsilon in SIZES]

    def adversarial(self, run: "Run", condition: str, rows: tuple[int, int]) -> Tensors:
        """Test images from one place to another under a condition of CLEANED: images, and success of the attack (n,).

        The attacker ignores any purifier; what he found is kept where it is dear.
        """
        study = self.study
        if condition == LBFGS:
            attack = study.lbfgs(run, *rows)
            return {"images": attack.images.cpu(), "success": attack.success.cpu()}
        shard, key = self._of_run(run, *rows)

        def compute() -> Tensors:
            twin = study.evidence_shard(run, LBFGS, *rows)["l2"] if condition.startswith("gaussian") else None
            attack = attacked(run, shard, condition, twin)
            return {"images": attack.images.cpu(), "success": attack.success.cpu()}

        dear = condition in PGD
        return study.store.get("evidence", digest("adversarial", condition, *key), compute) if dear else compute()

    def models(self, number: int) -> Mapping[str, Purified]:
        """The classifier of a run behind each purifier."""
        if number not in self._models:
            run = self.study.run(number)
            seed = seed_for("purifier", run.seed)
            self._models[number] = purifiers(run.vae, self.autoencoder(run.seed), run.classifier, seed)
        return self._models[number]

    def train(self) -> None:
        """Have the models of all runs trained, all that is missing at once."""
        if self._trained:
            return
        study = self.study
        calls = [(kind, number) for kind in (*reversed(study.trained), _PLAIN) for number in range(len(study.seeds))]
        with study.timed("training"), study.meter("training") as advance:
            study.each(_train, calls, advance)
        self._trained = True

    def autoencoder(self, seed: int) -> VAE | None:
        """The plain autoencoder of a run's seed; None where finished models came without training images."""
        study, images = self.study, self.study.outside.train
        if images is None:
            return None
        config = reference_configs(images)[0]
        key = digest(_PLAIN, config, seed, images.digest, _MODEL_STAGE, study.device.type)

        def train() -> Tensors:
            with study.meter(f"training the autoencoder of seed {seed}") as advance:
                model = fit_autoencoder(images, config, seed=seed, device=study.device, progress=advance)
            return dict(model.state_dict())

        model = VAE(config, images.shape)
        model.load_state_dict(study.store.get("models", key, train))
        return model.requires_grad_(requires_grad=False).to(study.device).eval()

    def _collect(self, condition: str) -> Table:
        study = self.study
        self.train()
        shards = study.shards(self.count(condition))
        calls = [(number, condition, rows) for number in range(len(study.seeds)) for rows in shards]
        with study.timed("cleaning"), study.meter(f"cleaning: {condition}") as advance:
            return Table.of_shards(study.each(_shard, calls, advance), len(shards))

    def shard(self, number: int, condition: str, rows: tuple[int, int]) -> Tensors:
        """The columns of `table` for one run, counted from 0, and the images from one place to another."""
        run = self.study.run(number)
        shard, key = self._of_run(run, *rows)

        def compute() -> Tensors:
            attack = self.adversarial(run, condition, rows)
            images = attack["images"].to(study.device)
            right = {NONE: _right(run.classifier, images, shard)}
            views: dict[int, Tensor] = {}  # of each purifier, which several decisions share
            logits: dict[int, Tensor] = {}  # of each view, likewise
            models = self.models(number)
            with torch.no_grad():
                for name, model in models.items():
                    some = slice(max(0, SEARCHED - rows[0]) if name == SEARCH else None)
                    if some.stop == 0:
                        right[name] = torch.zeros(0, dtype=torch.bool)
                        continue
                    place = id(model.purifier)
                    if place not in views:
                        views[place] = model.purifier.views(images[some], shard.indices[some], model.seed)
                    if model.decide != "mean-image" and place not in logits:
                        logits[place] = model.each(views[place])
                    decided = model.of_views(views[place], logits.get(place))
                    right[name] = decided.argmax(dim=1) == shard.labels[some]
            return {name: column.cpu() for name, column in right.items()} | {"found": attack["success"]}

        study = self.study
        return study.store.get("evidence", digest("cleaning", condition, *key), compute)

    def attacked_run(self, number: int, name: str, epsilon: float, *, curve: bool) -> Tensors:
        """The columns of `attacked` for one run, counted from 0."""
        study = self.study
        count = study.trial_images if curve else min(study.profile.adaptive_images, len(study.test))
        run = study.run(number)
        shard, key = self._of_run(run, 0, min(count, SEARCHED) if name == SEARCH else count)
        model = self.models(number)[name]
        # The two decisions by labels and softmax of the same views have one loss, and so one attack.
        victim = "vae-mean-softmax" if name == MAJORITY else name
        judge = partial(model, indices=shard.indices)
        told: dict[str, Any] = {"epsilon": epsilon, "indices": shard.indices, "keep_failed": True}

        def ignoring() -> Tensors:
            attack = pgd(run.classifier, shard.pixels, shard.labels, steps=STEPS, seed=seed, **told)
            return {"images": attack.images.cpu()}

        def through() -> Tensors:
            attacker = _as_attacked(self.models(number)[victim])
            random = attacker.purifier.draws > 1 or attacker.eot > 1
            # The adapted step size takes the luck of a step's draws for progress.
            effort: dict[str, Any] = {"step_size": 4 * epsilon / STEPS, "chunk": CHUNK} if random else {}
            attack = pgd(attacker, shard.pixels, shard.labels, steps=STEPS, seed=seed, **effort, **told)
            return {"images": attack.images.cpu()}

        def queried() -> Tensors:
            queries = SEARCH_QUERIES if name == SEARCH else QUERIES
            attack = square(model, shard.pixels, shard.labels, queries=queries, seed=seed, **told)
            return {"images": attack.images.cpu()}

        def compute() -> Tensors:
            attacks = {"through": (victim, through), "ignoring": ("", ignoring)}
            if not model.purifier.differentiable:
                attacks["queried"] = (name, queried)
            right = {}
            for kind, (of, make) in attacks.items():
                images = study.store.get("evidence", digest(kind, of, epsilon, *key), make)["images"]
                right[kind] = _right(judge, images.to(shard.pixels.device), shard).cpu()
                if kind == "ignoring":
                    right[NONE] = _right(run.classifier, images.to(shard.pixels.device), shard).cpu()
            return right

        seed = seed_for("attack/purified", run.seed)
        return study.store.get("evidence", digest("judged", name, epsilon, *key), compute)

    def _of_run(self, run: "Run", start: int, stop: int) -> tuple[Shard, tuple[object, ...]]:
        """Test images of a run, and what any result on them depends on."""
        study = self.study
        shard, known = study.shard(run, study.indices[start:stop]), study.outside.train
        models = (run.vae_digest, run.classifier_digest, None if known is None else known.digest)
        return shard.to(study.device), (*models, *shard.known, STAGE, study.device.type)


def tasks(study: "Study") -> list[tuple[Any, ...]]:
    """Functions, and what they take besides the study, that compute all that claims and report ask for."""
    numbers = range(len(study.seeds))
    judged = [(number, MAJORITY, epsilon, False) for epsilon in (0.1, 0.2) for number in numbers]
    shards = [
        (number, condition, rows)
        for condition in CLEANED
        for number in numbers
        for rows in study.shards(study.cleaning.count(condition))
    ]
    return [
        *((_attacked, *call) for call in (*judged, *study.cleaning.on_curves())),
        *((_shard, *call) for call in shards),
    ]


def _train(study: "Study", kind: str, number: int) -> object:
    seed = study.seeds[number]
    return study.cleaning.autoencoder(seed) if kind == _PLAIN else study.trained_model(kind, number)


def _shard(study: "Study", number: int, condition: str, rows: tuple[int, int]) -> Tensors:
    return study.cleaning.shard(number, condition, rows)


def _attacked(study: "Study", number: int, name: str, epsilon: float, curve: bool) -> Tensors:  # noqa: FBT001
    return study.cleaning.attacked_run(number, name, epsilon, curve=curve)


def gather(study: "Study") -> dict[str, Any]:
    """What the report says of family D, as plain values; attacks through the purifiers are on the first run."""
    tables = {name: study.cleaning.table(name) for name in CLEANED}
    names = [*study.cleaning.models(0)]
    study.cleaning.curves()
    curves = {}
    for name in names:
        rows = []
        for epsilon in SIZES:
            found = study.cleaning.attacked(name, epsilon, curve=True)
            measured = {key: found[key] for key in (NONE, *KNOWING) if key in found.columns}
            measured["worst"] = np.logical_and.reduce([found[key] for key in KNOWING if key in found.columns])
            row: dict[str, Any] = {"epsilon": epsilon, "images": found[NONE].shape[1]}
            rows.append(row | {key: _interval(right) for key, right in measured.items()})
        curves[name] = rows
    return {
        "images": {condition: table[NONE].shape[1] for condition, table in tables.items()},
        "searched": min(SEARCHED, study.count("clean")),
        "accuracy": {
            condition: {name: _interval(table[name]) for name in (NONE, *names) if name in table.columns}
            for condition, table in tables.items()
        },
        "attacked": curves,
        "strip": _strip(study),
    }


def flags(study: "Study") -> list[str]:
    """Where an attack on a purifier wins fewer images than one that knows less, beyond chance, in words."""
    found = []
    study.cleaning.curves()
    for name in study.cleaning.models(0):
        for epsilon in SIZES:
            table = study.cleaning.attacked(name, epsilon, curve=True)
            through = ~table["through"].ravel()
            for key, what in (("ignoring", "PGD that ignores it"), ("queried", "Square")):
                if key in table.columns and beats(~table[key].ravel(), through):
                    shares = [f"{1 - table[one].mean():.0%}" for one in ("through", key)]
                    found.append(
                        f"PGD {epsilon:g} through {name} wins {shares[0]}, {what} {shares[1]}: one that knows"
                        " less must not be better (are gradients masked?)"
                    )
    return found


def _interval(right: Any) -> dict[str, float]:
    found = interval(mean(right.astype(float), limits=(0, 1)), LEVEL)
    return {"accuracy": found.estimate, "low": found.low, "high": found.high}


def _strip(study: "Study") -> dict[str, Any]:
    """A test image of each class, the first few, attacked and cleaned, with labels and confidence; the first run."""
    run, labels = study.run(0), study.test.labels
    assert labels is not None
    of = labels[study.indices[: study.count(LBFGS)]]
    places = torch.tensor([int((of == label).nonzero()[0]) for label in np.unique(of)[:_IN_STRIP]])
    indices = study.indices[places]
    shard = study.shard(run, indices).to(study.device)
    models, rows = study.cleaning.models(0), []
    with torch.no_grad():
        for condition in STRIP:
            images = attacked(run, shard, condition).images
            rows.append(_row(condition, NONE, images, run.classifier(images)))
            for name in SHOWN:
                views = models[name].purifier.views(images, shard.indices, models[name].seed)
                rows.append(_row(condition, name, views.mean(dim=1), models[name].of_views(views)))
    return {"labels": labels[indices].tolist(), "rows": rows}


def _row(condition: str, name: str, images: Tensor, logits: Tensor) -> dict[str, Any]:
    confidence, label = logits.double().softmax(dim=1).max(dim=1)
    facts = {"condition": condition, "purifier": name, "pixels": pack(images.cpu())}
    return facts | {"label": label.tolist(), "confidence": confidence.tolist()}


def attacked(run: "Run", shard: Shard, condition: str, twin_l2: Tensor | None = None) -> Attack:
    """A shard's images under a condition of CLEANED; the attacker ignores any purifier."""
    if condition not in PGD:
        return perturb(run.vae, run.classifier, shard, condition, twin_l2)
    epsilon, seed = float(condition.removeprefix("pgd-")), seed_for("attack/pgd", shard.seed)
    told: dict[str, Any] = {"seed": seed, "indices": shard.indices, "keep_failed": True}
    return pgd(run.classifier, shard.pixels, shard.labels, epsilon=epsilon, steps=STEPS, **told)


def _as_attacked(model: Purified) -> Purified:
    """The victim with as many draws as the attacker averages over in a step, where it has more."""
    if model.purifier.draws <= EOT_DRAWS:
        return model
    assert isinstance(model.purifier, VAEPurifier)
    fewer = VAEPurifier(model.purifier.vae, draws=EOT_DRAWS)
    return Purified(fewer, model.classifier, decide=model.decide, seed=model.seed)


def _right(classify: Classify, images: Tensor, shard: Shard) -> Tensor:
    with torch.no_grad():
        return classify(images).argmax(dim=1) == shard.labels


_MODEL_STAGE = source_digest(_autoencoder, _models)
STAGE = source_digest(
    sys.modules[__name__],
    evidence,
    _adaptive,
    _attacks,
    _autoencoder,
    _lbfgs,
    _models,
    _noise,
    _pgd,
    _purify,
    _reconstruct,
    _square,
)
