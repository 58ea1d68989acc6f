"""Evidence of E5 to E7 and B6 to B8: whose confidence can be believed, the classifier's alone or with the VAE's help?

Judges. The classifier's softmax; the mean softmax over reconstructions; both with a temperature; and logistic
regressions that tell right from wrong answers by the scaled confidence, alone and with signals of the VAE beside it.
Temperatures and regressions are fitted on training images that neither model has seen (`Study.held_out`), nothing on
test images. A user's finished model stays as it is, whatever it saw.

Each judge is then asked about test images as they are, turned, noisy and attacked by one who ignores the VAE, and
about a mix of which half is from outside, where every answer is wrong.
"""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore import _calibration, _noise
from vaecore._calibration import fit_temperature
from vaecore._noise import normal, seed_for
from vaecore._store import Tensors, digest, source_digest
from vaecore.data import _outside
from vaecore.data._outside import outside
from vaecore.models import _networks as _models
from vaecore.reconstruction import _reconstruct
from vaecore.scoring import _features, _scores
from vaecore.scoring._features import Features, Settings
from vaecore.scoring._scores import scores
from vaecore.suite.study import cleaning
from vaecore.suite.study.cleaning import PGD
from vaecore.suite.study.draws import CLEAN, DRAWS, LBFGS, Table

if TYPE_CHECKING:
    from vaecore.suite.study.study import Run, Study

TURNED, NOISY, MIX = "rotated-45", "gaussian-0.3", "outside-mix"
ATTACKED = ("fgsm-0.2", PGD[-1], LBFGS)
ASKED = (CLEAN, "rotated-15", "rotated-30", TURNED, "rotated-60", NOISY, "gaussian-0.6", *ATTACKED, MIX)
SIGNALS = ("mse", "relative-mse", "kl", "disagreement")  # scores of vaecore; all are above 0
PLAIN, SCALED, MEAN, MEAN_SCALED = "softmax", "temperature", "mean-softmax", "mean-softmax-temperature"
CLASSES = (PLAIN, SCALED, MEAN, MEAN_SCALED)  # judges that give every class a probability
ALONE, ALL = "confidence", "confidence+all"
REGRESSIONS = {ALONE: ()} | {f"confidence+{name}": (name,) for name in SIGNALS} | {ALL: SIGNALS}
JUDGES = (*CLASSES, *REGRESSIONS)
NOWHERE = -1  # the label of images from outside
HELD = "held-out"
CHUNK = 250
# Signals and confidences this near to 0, and to 1 where that is their end, are cut before a logarithm is taken.
_EDGE = 1e-12


@dataclass
class Decisions:
    """The evidence of a study, each part made once and kept in the store."""

    study: "Study"
    _judges: dict[int, "_Judges"] = field(default_factory=dict)
    _tables: dict[str, Table] = field(default_factory=dict)

    def table(self, condition: str) -> Table:
        """What each judge of JUDGES says of each image; columns (runs, images).

        "<judge>/right": is the answer; "<judge>/confidence": that it is; "<judge>/nll": of that, in nats.
        "<judge>/class-nll", "<judge>/class-brier" (0 to 2): of those in CLASSES, of the label's probability and of all;
        NaN where the label is NOWHERE. The signals by their names. found: the attack reached its aim.
        """
        study, runs = self.study, self.study.runs
        study.looked_at.add(condition if condition in (CLEAN, *ATTACKED) else f"decisions/{condition}")
        if condition not in self._tables:
            with study.timed("decisions"), study.meter(f"decisions: {condition}") as advance:
                parts = study.each(_answers, [(number, condition) for number in range(len(runs))], advance)
            self._tables[condition] = Table.of(parts)
        return self._tables[condition]

    def run(self, number: int, condition: str) -> Tensors:
        """The columns of `table` for one run, counted from 0."""
        run = self.study.run(number)
        judge = self._judge(number, run)
        pixels, labels, indices, found = self._images(run, condition)
        return judge.ask(self._look(run, condition, pixels, indices), labels) | {"found": found}

    def outsiders(self) -> list[str]:
        """The sets that half of the mix is from: those that are not made of test images, or one that is."""
        sets = self.study.outside
        return [name for name in sets.sources if not sets.is_made(name)] or ["permuted"]

    def _images(self, run: "Run", condition: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The images, their labels, the index of each, and whether the attack reached its aim."""
        study = self.study
        count = study.count(condition)
        indices = study.indices[:count]
        clean, every = study.test.take(indices), torch.ones(count, dtype=torch.bool)
        pixels, labels = clean.pixels, clean.labels
        assert labels is not None
        if condition in ATTACKED:
            parts = [study.cleaning.adversarial(run, condition, rows) for rows in study.shards(count)]
            images, found = (torch.cat([part[name] for part in parts]) for name in ("images", "success"))
            return images, labels, indices, found
        if condition.startswith("rotated-"):
            pixels = outside(condition, clean, seed=0, indices=indices).pixels
        elif condition.startswith("gaussian-"):
            noise = normal(seed_for(condition, 0), indices, draws=1, size=pixels[0].numel())
            pixels = (pixels + float(condition.removeprefix("gaussian-")) * noise.view_as(pixels)).clamp(0, 1)
        elif condition == MIX:
            return *self._mix(pixels, labels, indices), every
        return pixels, labels, indices, every

    def _mix(self, pixels: Tensor, labels: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first half of these images, and as many from outside, taken from each set alike."""
        half, names = len(pixels) // 2, self.outsiders()
        parts, places = [pixels[: len(pixels) - half]], [indices[: len(pixels) - half]]
        for number, name in enumerate(names):
            images, index = self.study.outside.images(name)
            share = half * (number + 1) // len(names) - half * number // len(names)
            rows = torch.arange(share) % len(images)  # a set smaller than its share gives all it has, again and again
            parts.append(images.pixels[rows])
            places.append(index[rows])
        inside = labels[: len(pixels) - half]
        return torch.cat(parts), torch.cat([inside, torch.full((half,), NOWHERE)]), torch.cat(places)

    def _judge(self, number: int, run: "Run") -> "_Judges":
        if number not in self._judges:
            held, indices = self.study.held_out
            seen = self._look(run, HELD, held.pixels, indices)
            assert held.labels is not None
            self._judges[number] = _Judges.fit(seen, held.labels)
        return self._judges[number]

    def _look(self, run: "Run", condition: str, images: Tensor, indices: Tensor) -> "_Seen":
        """What a run's models say of images; kept."""
        study = self.study
        models = (run.vae_digest, run.classifier_digest)
        # The last bit of an adversarial image depends on who computes it; what it follows from does not.
        given = study.test.digest if condition in ATTACKED else images
        key = digest("decisions", condition, run.seed, *models, given, indices, _STAGE, study.device.type)

        def compute() -> Tensors:
            role = HELD if condition == HELD else "test"
            seed, settings = seed_for(f"decisions/{role}", run.seed), Settings(DRAWS, 1, 1, 1, 1)
            parts: list[Tensors] = []
            with torch.no_grad():
                for rows, at in zip(torch.split(images, CHUNK), torch.split(indices, CHUNK), strict=True):
                    place = (one.to(study.device) for one in (rows, at))
                    seen = Features(run.vae, run.classifier, *place, seed=seed, settings=settings, label_draws=True)
                    drawn = seen.drawn_logits.double().log_softmax(dim=2).logsumexp(dim=1) - np.log(DRAWS)
                    found = {"logits": seen.logits, "mean": drawn} | {name: scores[name].look(seen) for name in SIGNALS}
                    parts.append({name: value.cpu() for name, value in found.items()})
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        return _Seen(study.store.get("evidence", key, compute))


def tasks(study: "Study") -> list[tuple[Any, ...]]:
    """Functions, and what they take besides the study, that compute every table."""
    return [(_answers, number, condition) for condition in ASKED for number in range(len(study.seeds))]


def _answers(study: "Study", number: int, condition: str) -> Tensors:
    return study.decisions.run(number, condition)


@dataclass
class _Seen:
    """What the models say of images: logits, mean (the logarithm of the mean softmax over draws), both (n, classes);
    and each signal, (n,)."""

    columns: Tensors

    def log_probabilities(self, judge: str, temperatures: dict[str, float]) -> Tensor:
        """Of all classes, (n, classes) in float64, by a judge of CLASSES."""
        logits = self.columns["mean" if judge in (MEAN, MEAN_SCALED) else "logits"].double()
        return (logits / temperatures.get(judge, 1.0)).log_softmax(dim=1)

    def features(self, judge: str, temperatures: dict[str, float]) -> NDArray[np.float64]:
        """Log-odds of the scaled confidence, and the logarithm of each signal; (n, 1 + signals)."""
        confidence = self.log_probabilities(SCALED, temperatures).amax(dim=1).exp().clamp(_EDGE, 1 - _EDGE)
        signals = [self.columns[name].double().clamp(min=_EDGE).log() for name in REGRESSIONS[judge]]
        return torch.stack([confidence.logit(), *signals], dim=1).numpy()


@dataclass
class _Judges:
    """The judges of a run: temperatures, and regressions of being right; fitted on images held out."""

    temperatures: dict[str, float]
    regressions: dict[str, Any]

    @classmethod
    def fit(cls, seen: _Seen, labels: Tensor) -> "_Judges":
        """None in place of the regressions where no answer was wrong, or none right: there is nothing to learn."""
        temperatures = {
            SCALED: fit_temperature(seen.columns["logits"], labels),
            MEAN_SCALED: fit_temperature(seen.columns["mean"], labels),
        }
        right = (seen.columns["logits"].argmax(dim=1) == labels).numpy()
        if right.all() or not right.any():
            return cls(temperatures, dict.fromkeys(REGRESSIONS))
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  # takes seconds to import
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        # Few answers are wrong: without a penalty several signals together would tell them apart without error.
        fitted = {
            judge: make_pipeline(StandardScaler(), LogisticRegression()).fit(seen.features(judge, temperatures), right)
            for judge in REGRESSIONS
        }
        return cls(temperatures, fitted)

    def ask(self, seen: _Seen, labels: Tensor) -> Tensors:
        """The columns of `Decisions.table` but for `found`; NaN where there is no regression."""
        found = {name: seen.columns[name] for name in SIGNALS}
        known = labels != NOWHERE
        for judge in CLASSES:
            log_probability = seen.log_probabilities(judge, self.temperatures)
            highest, label = log_probability.max(dim=1)
            found[f"{judge}/right"] = right = label == labels
            found[f"{judge}/confidence"] = highest.exp()
            # log(1 - p) by the other classes: p itself may be 1 but for rounding.
            others = log_probability.scatter(1, label.unsqueeze(1), -torch.inf).logsumexp(dim=1)
            found[f"{judge}/nll"] = -torch.where(right, highest, others)
            own = labels.clamp(min=0).unsqueeze(1)
            gap = log_probability.exp().scatter_add(1, own, -torch.ones_like(own, dtype=torch.float64))
            for name, value in (
                ("class-nll", -log_probability.gather(1, own)[:, 0]),
                ("class-brier", gap.square().sum(dim=1)),
            ):
                found[f"{judge}/{name}"] = value.where(known, torch.nan)
        right = found[f"{PLAIN}/right"]
        for judge, model in self.regressions.items():
            both = np.full((len(right), 2), np.nan)
            if model is not None:
                both = model.predict_log_proba(seen.features(judge, self.temperatures))
            wrong_log, right_log = torch.from_numpy(both).unbind(dim=1)
            found[f"{judge}/right"], found[f"{judge}/confidence"] = right, right_log.exp()
            found[f"{judge}/nll"] = -torch.where(right, right_log, wrong_log)
        return found


# Taken at import, as in `claims.study`.
_STAGE = digest(
    cleaning.STAGE,
    source_digest(sys.modules[__name__], _calibration, _features, _models, _noise, _outside, _reconstruct, _scores),
)
