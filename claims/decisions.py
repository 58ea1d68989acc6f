"""Evidence of claims B6 to B8: does the reconstruction error add to a confidence that has been calibrated?

Nothing is fitted on test images. A classifier is trained on most of the training images; on the rest, which it has not
seen, its temperature is fitted, and then two logistic regressions that tell right from wrong answers: by the
temperature-scaled confidence, and by that and the logarithm of the MSE. Both are then asked about test images, as they
are and under shift. The VAE is the run's, which was trained on all training images; the error of those held out is
therefore a little smaller than that of test images. A user's finished classifier stays as it is, whatever it saw.
"""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from claims.evidence import DRAWS, Table
from vaecore import _calibration, _models, _noise, _outside, _reconstruct, _training
from vaecore._calibration import fit_temperature
from vaecore._images import Images
from vaecore._models import Classifier, Classify
from vaecore._noise import image_indices, normal, seed_for, words
from vaecore._outside import outside
from vaecore._reconstruct import reconstruct
from vaecore._store import Tensors, digest, source_digest
from vaecore._training import fit_classifier, reference_configs

if TYPE_CHECKING:
    from claims.study import Run, Study

CLEAN, TURNED, NOISY = "clean", "rotated-45", "gaussian-0.3"
HELD_OUT, SHARE = 5_000, 0.1  # training images that are held out: that many, or this share of all where it is fewer
SHARD = 500
# A confidence of 1 in float64 has infinite log-odds: this near to 1, or to 0, they are cut.
_EDGE = 1e-12

Matrix = NDArray[np.float64]


@dataclass
class Decisions:
    """The evidence of a study, each part made once and kept in the store."""

    study: "Study"
    _judges: dict[int, "_Judge"] = field(default_factory=dict)

    def table(self, condition: str) -> Table:
        """Columns (runs, images): right, whether the classifier is; plain and aided, the NLL of that in nats.

        plain: by the regression on the temperature-scaled confidence; aided: by that on the MSE as well.
        """
        study, runs = self.study, self.study.runs
        images, indices = self._images(condition)
        with study.timed("decisions"), study.meter(f"decisions: {condition}") as advance:
            parts: list[Tensors] = []
            for number, run in enumerate(runs):
                judge = self._judge(number, run)
                logits, error = self._look(run, judge.classifier, judge.digest, images, indices)
                parts.append(judge.nll(logits, error, images.labels))
                advance(number + 1, len(runs))
        study.looked_at.add(f"decisions/{condition}")
        return Table.of(parts)

    def held_out(self) -> Tensor:
        """Which training images are held out, (k,) in random order, the same for all studies of a data set."""
        count = len(self.study.train)
        order = words(seed_for("held-out", 0), torch.arange(count), draws=1, size=1).flatten().argsort()
        return order[: min(HELD_OUT, int(SHARE * count))]

    def _images(self, condition: str) -> tuple[Images, Tensor]:
        study = self.study
        clean, indices = study.test.take(study.indices), study.indices
        if condition == CLEAN:
            return clean, indices
        if condition == TURNED:
            return outside(TURNED, clean, seed=0, indices=indices), indices
        noise = normal(seed_for(NOISY, 0), indices, draws=1, size=clean.pixels[0].numel())
        noisy = clean.pixels + float(NOISY.removeprefix("gaussian-")) * noise.view_as(clean.pixels)
        return Images(noisy.clamp(0, 1), clean.labels, clean.name, clean.split), indices

    def _judge(self, number: int, run: "Run") -> "_Judge":
        if number not in self._judges:
            classifier, name = self._classifier(run)
            rest = self.study.train.take(held := self.held_out())
            logits, error = self._look(run, classifier, name, rest, held, role="held-out")
            self._judges[number] = _Judge.fit(classifier, name, logits, error, rest.labels)
        return self._judges[number]

    def _classifier(self, run: "Run") -> tuple[Classify, str]:
        """The classifier that has not seen the images held out, and a digest of it."""
        study = self.study
        if study.classifier is not None:
            return run.classifier, run.classifier_digest
        config = reference_configs(study.train)[1]
        key = digest("held-out-classifier", config, run.seed, study.train.digest, _STAGE, study.device.type)

        def train() -> Tensors:
            seen = torch.ones(len(study.train), dtype=torch.bool)
            seen[self.held_out()] = False
            title = f"training the classifier of seed {run.seed} without the images held out"
            with study.timed("training"), study.meter(title) as advance:
                most = study.train.take(seen)
                model = fit_classifier(most, config, seed=run.seed, device=study.device, progress=advance)
            return dict(model.state_dict())

        weights = study.store.get("models", key, train)
        shape = (study.train.pixels.shape[-2], study.train.pixels.shape[-1])
        model = Classifier(config, shape, study.train.classes or 0)
        model.load_state_dict(weights)
        return model.requires_grad_(requires_grad=False).to(study.device).eval(), key

    def _look(
        self, run: "Run", classifier: Classify, name: str, images: Images, indices: Tensor, *, role: str = "test"
    ) -> tuple[Matrix, Matrix]:
        """Logits (n, classes) and MSE (n,) of images in a run; kept."""
        study = self.study
        key = digest(
            "decisions", role, run.seed, run.vae_digest, name, images.digest, indices, _STAGE, study.device.type
        )

        def compute() -> Tensors:
            seed = seed_for(f"decisions/{role}", run.seed)
            parts = []
            for start in range(0, len(images), SHARD):
                rows = images.pixels[start : start + SHARD].to(study.device)
                index = image_indices(len(rows), 0, indices[start : start + SHARD])

                def squares(some: Tensor, found: Tensor) -> Tensor:
                    return (found - some.unsqueeze(1)).square().mean(dim=(1, 2, 3, 4))

                with torch.no_grad():
                    logits = classifier(rows)
                error = reconstruct(run.vae, rows, draws=DRAWS, seed=seed, indices=index, reduce=squares)
                parts.append((logits.cpu(), error.cpu()))
            return {"logits": torch.cat([one for one, _ in parts]), "error": torch.cat([two for _, two in parts])}

        found = study.store.get("evidence", key, compute)
        return found["logits"].double().numpy(), found["error"].double().numpy()


@dataclass
class _Judge:
    """A run's classifier with its temperature, and two regressions of being right; fitted on images held out."""

    classifier: Classify
    digest: str
    temperature: float
    plain: Any
    aided: Any

    @classmethod
    def fit(cls, classifier: Classify, name: str, logits: Matrix, error: Matrix, labels: Tensor | None) -> "_Judge":
        """None in place of the regressions where no answer was wrong, or none right: there is nothing to learn."""
        assert labels is not None
        temperature = fit_temperature(logits, labels)
        features = _features(logits, error, temperature)
        right = logits.argmax(axis=1) == labels.numpy()
        if right.all() or not right.any():
            return cls(classifier, name, temperature, None, None)
        plain, aided = (
            make_pipeline(StandardScaler(), LogisticRegression(C=np.inf)).fit(columns, right)
            for columns in (features[:, :1], features)
        )
        return cls(classifier, name, temperature, plain, aided)

    def nll(self, logits: Matrix, error: Matrix, labels: Tensor | None) -> Tensors:
        """Whether the classifier is right, and the NLL of that by both regressions, NaN without them; each (n,)."""
        assert labels is not None
        features = _features(logits, error, self.temperature)
        right = logits.argmax(axis=1) == labels.numpy()
        found = {"right": torch.from_numpy(right)}
        for name, model, columns in (("plain", self.plain, features[:, :1]), ("aided", self.aided, features)):
            scores = np.full((len(right), 2), np.nan) if model is None else model.predict_log_proba(columns)
            found[name] = torch.from_numpy(-scores[np.arange(len(right)), right.astype(int)])
        return found


def _features(logits: Matrix, error: Matrix, temperature: float) -> Matrix:
    """Log-odds of the temperature-scaled confidence, and the logarithm of the MSE; (n, 2)."""
    confidence = torch.from_numpy(logits / temperature).softmax(dim=1).amax(dim=1).clamp(_EDGE, 1 - _EDGE)
    return np.stack([torch.logit(confidence).numpy(), np.log(error)], axis=1)


# Taken at import, as in `claims.study`.
_STAGE = source_digest(sys.modules[__name__], _calibration, _models, _noise, _outside, _reconstruct, _training)
