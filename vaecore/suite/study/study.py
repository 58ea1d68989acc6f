"""A study: tables of evidence for the claims' tests, computed when first looked at, and kept."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import import_module
from os import PathLike
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore import Autoencoder, Store, keep_freed_memory
from vaecore.suite.budget import budget_of
from vaecore.suite.cache import cache_folder
from vaecore.suite.facts import Facts, Precondition
from vaecore.suite.statistics.columns import Column, Origin
from vaecore.suite.study.computing import executor_of
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.each_image import each_image
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.executors import Executor, Here
from vaecore.suite.study.kinds import KindOfEvidence
from vaecore.suite.study.live import live_or_named
from vaecore.suite.study.models import Run, model_digest
from vaecore.suite.study.plan import Meter, Plan, silent
from vaecore.suite.study.preconditions import (
    attack_tasks,
    attacks_among,
    in_bytes,
    look_tasks,
    of_attacks,
    of_models,
    of_sets,
    sets_among,
    share_of_others,
)
from vaecore.suite.study.progress import bars
from vaecore.suite.study.protocol import PROFILES, draws_of, profile_of, protocol_of, seed_of
from vaecore.suite.study.sets import Sets
from vaecore.suite.study.setup import PROBE, Setup, choose_dataset, device_of, given, given_dataset
from vaecore.suite.study.sources import look_again
from vaecore.suite.study.stream import score_stream
from vaecore.suite.study.tables import Content, Table, failures, join
from vaecore.suite.study.tasks import Task
from vaecore.suite.text import as_keywords, printable, visible
from vaecore.toolkit import Classify, Precision, Tensors, answers

if TYPE_CHECKING:  # so that a change to how claims are judged moves no key of a task
    from vaecore.suite.judging.registry import Claim
    from vaecore.suite.tidy import Tidy


class TooFewError(ValueError):
    """Too few images are left to look at, as an attack failed on the others."""


@dataclass(repr=False)
class Study:
    """What claims ask for: tables of evidence, models, facts.

    setup: the images, models and protocol that it looks at. plan: computes and keeps. A `Table` has a row for each run
    and image, and its columns carry the condition that they look at, so that estimates and verdicts know it.
    """

    setup: Setup
    plan: Plan
    _tables: dict[tuple[str, Condition], Table] = field(default_factory=dict)

    @classmethod
    def of(cls, setup: Setup, store: Store, executor: Executor | None = None, meter: Meter = silent) -> "Study":
        """A study that keeps its results in a store; executor: None for this process."""
        look_again()  # a notebook may have loaded modules anew since the last one
        return cls(setup, Plan(store, executor or Here(), meter, printable(PurePath(setup.dataset.name).name)))

    @classmethod
    def make(
        cls,
        dataset: Any,
        *,
        vae: Any = None,
        classifier: Any = None,
        name: str = "my-images",
        profile: str = "standard",
        runs: int | None = None,
        images: int | None = None,
        attack_share: float | None = None,
        epsilon: float | str | None = None,
        draws: int | None = None,
        first_seed: int | None = None,
        device: str = "auto",
        workers: int | None = None,
        cluster: str | None = None,
        precision: Precision = "float32",
        ood: Sequence[str] = (),
        data_root: str | PathLike[str] | None = None,
        cache_dir: str | PathLike[str] | None = None,
        shared_cache: bool = False,
        meter: Meter | None = None,
    ) -> "Study":
        """A study for a notebook or a script, of data and models that are at hand.

        dataset: a pair (images, labels) of arrays or tensors, of which every fifth image of a class is for test;
        {"train": (images, labels), "test": (images, labels)}; `vaecore.Images` in the place of a pair; or what
        `--dataset` takes. Finished models need no "train". name: of such images, in results.
        vae, classifier: a finished torch module, a maker, make(seed) or make(seed, images), or what `--vae` and
        `--classifier` take; by default the reference models, trained on the data. Data and models are copied: what
        becomes of them later changes no result.
        meter: shows how far work has come; by default a bar in a terminal or a notebook. All others: the options of
        the same name, see `vaecore claims --help`. Results are kept in the same cache, under a digest of data, weights
        and code; so an equal study takes them from there, and any other does not.
        Raises ValueError as the options do, before anything is computed.
        """
        look_again()  # a notebook may have loaded modules anew since the last one
        try:
            root = None if data_root is None else str(data_root)
            by_name = isinstance(dataset, str | PathLike)
            chosen = choose_dataset(str(dataset), root) if by_name else given_dataset(dataset, name, root)
            if profile not in PROFILES:
                raise ValueError(f"profile must be one of {', '.join(PROFILES)}; got {profile!r}")
            budget = None if epsilon is None else budget_of(str(epsilon))
            looked_at = profile_of(profile, runs, images, attack_share)
            place, models = device_of(device, cluster=cluster is not None), {"vae": vae, "classifier": classifier}
            setup = Setup(
                chosen,
                protocol_of(chosen.test, looked_at, draws_of(draws), budget),
                device=place,
                **{kind: live_or_named(model, kind) for kind, model in models.items()},
                first_seed=seed_of(first_seed, pilot=False),
                precision=precision,
                ood=tuple(ood),
            )
            setup.check()  # before a cluster is started
            store = Store(cache_folder(None if cache_dir is None else str(cache_dir)), shared=shared_cache)
            executor = executor_of(workers, place, small=profile == "smoke", cluster=cluster)
            study = cls.of(setup, store, executor, bars() if meter is None else meter)
            _ = study.facts
        except ValueError as error:  # of an option, which is a keyword here
            raise ValueError(as_keywords(str(error))) from error
        keep_freed_memory()
        return study

    def __repr__(self) -> str:
        """Data set, models and how much it looks at."""
        facts = self.facts
        models = f"vae={facts.vae!r}, classifier={facts.classifier!r}"
        return f"Study({facts.dataset!r}, {models}, profile={facts.profile!r}, runs={facts.runs})"

    def planning(self) -> "Study":
        """The same study, which only notes the tasks that its tables would ask for; see `Plan.planning`."""
        return Study(self.setup, replace(self.plan, planning=True, asked={}))

    @property
    def conditions(self) -> set[str]:
        """The full names of the conditions whose tables were asked for."""
        return {self.setup.protocol.full_name(condition) for _, condition in self._tables}

    def table(
        self,
        condition: Condition | str,
        images: int | None = None,
        *,
        draws: int | None = None,
        of: Evidence | KindOfEvidence = DRAWS,
    ) -> Table:
        """Evidence of all runs under a condition.

        condition: for instance CLEAN or FGSM(1), of one budget; or its name ("fgsm-0.2"). images: the first so many, to
        pair with a condition of fewer. draws: the first so many, by default the protocol's. of: the kind of evidence;
        by default what reconstructions show (`study/draws.py`).
        """
        if isinstance(condition, str):
            condition = self._named(condition)
        evidence = _evidence(of)
        key = type(evidence).__name__, condition
        if key not in self._tables:
            self._tables[key] = self._table(condition, evidence)
        table = self._tables[key]
        if draws is not None:
            table = table.first_draws(draws)
        return table if images is None else table.take(slice(images))

    def paired(
        self,
        *conditions: Condition | str,
        draws: int | None = None,
        of: Evidence | KindOfEvidence = DRAWS,
        reached: bool = False,
    ) -> list[Table]:
        """Evidence under several conditions for the images that they share, in the same order.

        Images that a minimum-norm attack leaves out, as it failed in a run or changed nothing, are left out of all; the
        tables say what share is kept. reached: likewise, images on which any other attack failed. Raises TooFewError,
        when looked at, where fewer than two are left.
        """
        resolved = [self._named(name) if isinstance(name, str) else name for name in conditions]
        shared = min(_evidence(of).count(self.setup, condition) for condition in resolved)
        tables = [self.table(condition, shared, draws=draws, of=of) for condition in resolved]
        attacks = {condition.attack: None for condition in resolved if condition.attack is not None}
        attacks |= {condition: None for condition in resolved if reached and condition.kind.knows}
        if not attacks:
            return tables
        tasks = {attack: self._attack_tasks(attack, shared) for attack in attacks}
        self.plan.note([task for some in tasks.values() for task in some])

        @cache
        def succeeded() -> NDArray[np.int64]:
            everywhere = np.ones(shared, dtype=bool)
            for some in tasks.values():
                columns = join(self.plan.results(some), len(some) // len(self.setup.seeds))
                reached = columns["success"] & (columns["l2"] > 0)
                everywhere &= reached[:, :shared].all(axis=0)
            places = everywhere.nonzero()[0]
            if len(places) < 2:
                names = " and ".join(self.setup.protocol.name(attack) for attack in attacks)
                raise TooFewError(
                    f"{names} must succeed on two images or more in all runs; got {len(places)} of {shared}"
                )
            return places

        return [table.take(succeeded, of=shared) for table in tables]

    def _attack_tasks(self, attack: Condition, images: int) -> list[Task]:
        """Kept results that say on which images an attack succeeded: of the attack, or of what was made of it."""
        setup = self.setup
        if not attack.kind.kept:
            return DRAWS.tasks(setup, attack)
        return [
            setup.attack(attack, number, rows) for number in range(len(setup.seeds)) for rows in setup.shards(images)
        ]

    def each_image(
        self, function: Callable[..., torch.Tensor], images: int | None = None, **settings: object
    ) -> Column:
        """A user's own number for each run and image, (runs, images), kept; rows as those of `table`.

        function: called as function(run, shard, **settings) with a `Run` and a `Shard`, gives a tensor (n,). It must be
        a module's or a notebook's own function: it is known by its code, by the code of what it imports, and by the
        settings (numbers, texts), so that a change to any of them computes it again. images: the first so many, by
        default those that clean images are looked at on.
        """
        return each_image(self.setup, self.plan, function, images, settings)

    def score(self, images: Any, folder: str | PathLike[str], *, run: int = 0) -> list[str]:
        """Anomaly scores of as many images as there are, by the models of a run, counted from 0; higher is anomalous.

        images: an array (n, c, h, w) of the study's shape, float32 in [0, 1] or bytes, also one mapped from a file or
        of zarr; or a folder of such .npy files, taken in the order of their names. folder: a new one, to which a file
        `<score>.npy`, (n,), is written for each score; the names are returned. Expensive scores (likelihoods, regret)
        are left out. A portion of the images is a task, on the study's executor and in its cache; so memory stays flat,
        and after an interruption the same call goes on.
        Raises FileExistsError for a folder that is there, and ValueError for other images.
        """
        return score_stream(self.setup, self.plan, images, Path(folder), run)

    def close(self) -> None:
        """Leave the cluster that computes, if one does; one that was started for this study ends."""
        self.plan.executor.close()

    @cached_property
    def runs(self) -> list[Run]:
        """The models of all runs, trained where they are not yet."""
        numbers = range(len(self.setup.seeds))
        weights = [self.setup.weights(kind, number) for kind in ("vae", "classifier") for number in numbers]
        self.plan.compute([task for task in weights if task is not None], "training")
        return [self.run(number) for number in numbers]

    def run(self, number: int) -> Run:
        """The models of a run, counted from 0."""
        vae, classifier = (self.plan.make(self.setup.model(kind, number)) for kind in ("vae", "classifier"))
        return Run(self.setup.seeds[number], vae, classifier)

    @cached_property
    def digests(self) -> list[dict[str, str]]:
        """Digests of each run's models: their weights and behaviour."""
        found = self.plan.results(digest_tasks(self.setup), "digests of models")
        return [{kind: bytes(one[kind].tolist()).hex() for kind in one} for one in found]

    def claims(self, *ids: str, report_dir: str | PathLike[str] | None = None) -> "Tidy":
        """The verdicts of the package's claims on this study, a row each: a tidy table with `to_frame()` and `csv()`.

        ids: of the claims to judge, for instance "A1", "C1a"; by default all. Those that can't be judged on these data
        or models have the verdict "no verdict", and a message that says why. report_dir: also compute what a whole
        report takes, and write it to a folder in there, as `pytest claims --report-dir` does.
        Raises ValueError for an id that is not registered.
        """
        given: tuple[object, ...] = ids
        if wrong := [one for one in given if not isinstance(one, str)]:
            raise ValueError(f'ids must be texts, as in study.claims("A1", "C6"); got {wrong[0]!r}')
        # By name, as no key of a task may follow from how claims are judged, and imports run downward.
        tidy: Tidy = import_module("vaecore.suite.plugin.in_python").claims(self, ids, report_dir)
        return tidy

    @property
    def outside(self) -> Sets:
        """The sets outside that are at hand."""
        return self.setup.sets

    def lacks(self, claim: "Claim") -> str:
        """Why a claim can't be concluded on these images; empty where it can."""
        if (why := self.outside.lacks(claim.outside)) or not claim.needs or self.setup.background:
            return why
        return (
            f"needs images with a background, black in a tenth of all pixels or more; {self.setup.test.name} has none"
        )

    @cached_property
    def _right(self) -> NDArray[np.bool_]:
        """Whether each run's classifier labels each test image right, (runs, images)."""
        return np.stack([run["right"].numpy() for run in self.plan.results(accuracy_tasks(self.setup), "accuracy")])

    def accuracies(self) -> list[float]:
        """Share of all test images that each run's classifier labels correctly."""
        return [float(right) for right in self._right.mean(axis=1)]

    def preconditions(self, conditions: Collection[str] | None = None) -> list[Precondition]:
        """What must hold before claims mean something: of models, attacks and sets outside.

        conditions: full names of those that are looked at; None: all.
        """
        setup = self.setup
        shares = {one: self._share_of_others(one) for one in sets_among(setup, conditions)}
        attacks = attacks_among(setup, conditions)
        of_these = of_attacks(setup, self._under_attack, attacks) if attacks else []
        return [*self._of_models, *of_sets(setup, shares), *of_these]

    @cached_property
    def _of_models(self) -> list[Precondition]:
        looked = self.plan.results(look_tasks(self.setup), "preconditions")
        return of_models(self.setup, looked, self._right[:, self.setup.indices.numpy()])

    @cached_property
    def _under_attack(self) -> list[Tensors]:
        return self.plan.results(attack_tasks(self.setup), "preconditions")

    @cached_property
    def _share_of_others(self) -> Callable[[Condition], float]:
        inside = in_bytes(self.setup.test)
        return cache(lambda condition: share_of_others(self.setup, condition, inside))

    def precondition_tasks(self, conditions: Collection[str]) -> list[Task]:
        """What `preconditions` asks for."""
        setup = self.setup
        attacks = attack_tasks(setup) if attacks_among(setup, conditions) else []
        return [*look_tasks(setup), *accuracy_tasks(setup), *attacks]

    @cached_property
    def facts(self) -> Facts:
        """What judging and reports need to know of the study; nothing is computed for it."""
        setup, profile = self.setup, self.setup.protocol.profile
        executor = self.plan.executor
        facts = Facts(
            dataset=setup.test.name,
            why=setup.dataset.why,
            test_images=len(setup.test),
            test_digest=setup.test_images.digest,
            train_digest=None if setup.train_or_none is None else setup.dataset.training.digest,
            profile=profile.name,
            budget=setup.protocol.budget,
            draws=setup.protocol.draws,
            precision=setup.precision,
            seeds=tuple(setup.seeds),
            images={setup.protocol.name(condition): setup.count(condition) for condition in setup.conditions},
            vae=str(setup.vae or "reference"),
            classifier=str(setup.classifier or "reference"),
            fixed=setup.fixed,
            finished=setup.finished,
            covers=setup.covers,
            pilot=setup.pilot,
            too_little=_too_little(setup),
            device=setup.device.type,
            gpu=torch.cuda.get_device_name() if setup.device.type == "cuda" and torch.cuda.is_available() else None,
            workers=executor.workers,
            threads=torch.get_num_threads(),
            left_out=self.outside.left_out,
            train_images=None if setup.train_or_none is None else len(setup.dataset.training),
            train_use=setup.train_use,
        )
        shown: Facts = visible(facts)  # names of files and models may hold anything
        return shown

    def _named(self, name: str) -> Condition:
        conditions = {self.setup.protocol.name(condition): condition for condition in self.setup.conditions}
        if name not in conditions:
            raise ValueError(f"condition must be one of {', '.join(conditions)}; got {name!r}")
        return conditions[name]

    def _table(self, condition: Condition, of: Evidence) -> Table:
        name = frozenset({self.setup.protocol.full_name(condition)})
        tasks = of.tasks(self.setup, condition)
        self.plan.note(tasks)

        def load() -> Content:
            columns = of.columns(self.setup, condition, self.plan.results(tasks))
            return columns, Origin(name, failed=failures(columns) if condition.attack is None else 0.0)

        return Table(load)


def _too_little(setup: Setup) -> str:
    if setup.protocol.profile.name == "smoke":
        return "smoke"
    return "" if len(setup.seeds) > 1 or setup.fixed else "one run"


def _evidence(of: Evidence | KindOfEvidence) -> Evidence:
    return of.evidence if isinstance(of, KindOfEvidence) else of


def accuracy_tasks(setup: Setup) -> list[Task]:
    """Whether each test image is labelled correctly, by each run's classifier."""
    return [
        Task(
            _accuracy,
            {"device": str(setup.device)},
            {"test": setup.whole_test, "classifier": setup.model("classifier", number)},
            "accuracy",
            "accuracy",
        )
        for number in range(len(setup.seeds))
    ]


def digest_tasks(setup: Setup) -> list[Task]:
    """The bytes of the digests of each run's models."""
    models = [{kind: setup.model(kind, number) for kind in ("vae", "classifier")} for number in range(len(setup.seeds))]
    probe = given(setup.test.take(slice(PROBE)))
    return [
        Task(_digests, {"device": str(setup.device)}, {"probe": probe, **both}, "digests", "digests of models")
        for both in models
    ]


def _digests(device: str, probe: Tensors, vae: Autoencoder, classifier: Classify) -> Tensors:
    pixels, models = probe["pixels"].to(device), {"vae": vae, "classifier": classifier}
    digests = {kind: bytes.fromhex(model_digest(model, kind, pixels)) for kind, model in models.items()}
    return {kind: torch.tensor([*one], dtype=torch.uint8) for kind, one in digests.items()}


def _accuracy(device: str, test: Tensors, classifier: Classify) -> Tensors:
    with torch.no_grad():
        parts = [answers(classifier, rows.to(device)).argmax(dim=1).cpu() for rows in torch.split(test["pixels"], 500)]
    return {"right": torch.cat(parts) == test["labels"]}
