"""Bayesian optimisation with Optuna's samplers: baselines as users know them.

The study is rebuilt from the archive at every ask, so that these searchers, too, have no state but
the archive. Optuna proposes over the whole box of models and counts; the budget reaches it as a
constraint (0 or less is feasible). A failed trial reaches it as one with the worst score so far;
what it proposes where trials fail (`agenttts.search.failures`) is told to it likewise and not
tried.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import override

from agenttts.errors import MissingRequirement
from agenttts.search.base import Proposal, Searcher
from agenttts.search.failures import Failures
from agenttts.search.moves import within_budget
from agenttts.space import Allocation, Choice, SearchSpace, Stage
from agenttts.spec.section import Options

# Proposals over budget told to the study as such before one is cut down to the budget.
_MAX_INFEASIBLE = 5


class OptunaOptions(Options):
    """The options of `optuna_tpe` and `optuna_gp`."""

    initial: Annotated[int, Field(ge=0, description="0 or more random trials")] = 5
    """How many random trials come first."""


class _OptunaSearcher(Searcher):
    seed_role = "the initial trials and the draws of Optuna's sampler"
    options_model = OptunaOptions
    options: OptunaOptions

    def __init__(
        self, space: SearchSpace, seed: int = 0, options: OptunaOptions | None = None
    ) -> None:
        super().__init__(space, seed, options)
        self._optuna = _import_optuna()
        self._sampler(0)  # what it lacks is said at once

    def _sampler(self, seed: int) -> Any:
        raise NotImplementedError

    @override
    def _propose(self, n: int) -> list[Proposal]:
        chosen: list[Proposal] = []
        while len(chosen) < n and (found := self._next()):
            self.add_pending(proposal.allocation for proposal in found)
            chosen += found
        return chosen

    def _next(self) -> list[Proposal]:
        """The next proposal; none when the space is exhausted."""
        number = len(self.archive.known)
        if len(self.archive.tried) < self.options.initial or len(self.archive.scored) < 2:
            return self._drawn(1, "initial trial, drawn at random")
        with warnings.catch_warnings():
            # Experimental features, and study attributes that are deprecated between its versions.
            warnings.simplefilter("ignore")
            study = self._study(number)
            failures = Failures(self._evidence.read())
            for attempt in range(_MAX_INFEASIBLE):
                trial = study.ask(self._distributions)
                allocation = self._allocation(trial.params)
                if allocation in self.space and not failures.avoids(allocation):
                    break
                if attempt < _MAX_INFEASIBLE - 1:
                    study.add_trial(self._finished(allocation, self._worst))
                    study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        reason = f"proposed by {self.name}"
        if allocation not in self.space:
            allocation = within_budget(self.space, allocation)
            reason += ", reduced to the budget"
        if failures.avoids(allocation):
            why = f"trials fail in the region that {self.name} proposes"
        elif allocation in self.archive:
            why = f"{self.name} proposed a known allocation"
        else:
            return [Proposal(allocation, "model", reason)]
        return self._drawn(1, f"{why}: drawn at random", failures.avoids)

    def _study(self, number: int) -> Any:
        optuna = self._optuna
        study = optuna.create_study(
            direction="maximize",
            sampler=self._sampler(
                random.Random(f"{self.name}/{self.seed}/{number}").randrange(2**31)
            ),
        )
        evidence = self._evidence.read()
        for trial in evidence.trials:
            study.add_trial(self._finished(trial.allocation, trial.score))
        for row in evidence.failed:
            study.add_trial(self._finished(evidence.grid.decode(row), self._worst))
        # Both samplers take running trials for ones that will be known: a constant liar, and
        # qLogEI.
        for row in evidence.pending:
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=self._parameters(evidence.grid.decode(row)),
                    distributions=self._distributions,
                )
            )
        return study

    @property
    def _worst(self) -> float:
        return float(self._evidence.read().scores.min())

    def _finished(self, allocation: Allocation, score: float) -> Any:
        # Share of the budget by which the allocation is over it (negative: under).
        excess = (self.space.cost(allocation) - self.space.budget) / self.space.budget
        return self._optuna.trial.create_trial(
            value=score,
            params=self._parameters(allocation),
            distributions=self._distributions,
            constraints={"budget": excess},
        )

    @cached_property
    def _distributions(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        kinds = self._optuna.distributions
        for stage in self.space.stages:
            names = [model.name for model in stage.models]
            made[f"{stage.name}.model"] = kinds.CategoricalDistribution(names)
            low, high = stage.samples[0], stage.samples[-1]
            if _is_range(stage):
                made[f"{stage.name}.samples"] = kinds.IntDistribution(low, high, log=True)
            else:
                # Explicit counts by their position: neighbours are neighbours, whatever lies
                # between.
                made[f"{stage.name}.samples"] = kinds.IntDistribution(0, len(stage.samples) - 1)
        return made

    def _parameters(self, allocation: Allocation) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for stage, choice in zip(self.space.stages, allocation.choices, strict=True):
            position = stage.samples.index(choice.samples)
            parameters[f"{stage.name}.model"] = choice.model
            parameters[f"{stage.name}.samples"] = choice.samples if _is_range(stage) else position
        return parameters

    def _allocation(self, parameters: Mapping[str, Any]) -> Allocation:
        choices = []
        for stage in self.space.stages:
            number = parameters[f"{stage.name}.samples"]
            samples = number if _is_range(stage) else stage.samples[number]
            choices.append(Choice(stage.name, parameters[f"{stage.name}.model"], samples))
        return Allocation(tuple(choices))


class OptunaTPESearcher(_OptunaSearcher):
    """Optuna's tree-structured Parzen estimator, multivariate.

    It takes constraints into account.
    """

    name = "optuna_tpe"

    @override
    def _sampler(self, seed: int) -> Any:
        return self._optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=0
        )


class OptunaGPSearcher(_OptunaSearcher):
    """Optuna's Gaussian-process sampler; needs torch and scipy.

    It takes constraints into account. A proposal takes about a second after 50 trials, and 6 to 31
    seconds after 500.
    """

    name = "optuna_gp"

    @override
    def _sampler(self, seed: int) -> Any:
        try:
            import scipy  # type: ignore[import-untyped]  # noqa: F401
            import torch  # noqa: F401
        except ImportError as error:
            raise MissingRequirement(
                f"optuna_gp needs the package '{error.name}'",
                fix="pip install 'agenttts-hpc[optuna]' torch",
                at=("method",),
            ) from error
        return self._optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)

    @override
    def _next(self) -> list[Proposal]:
        with _one_thread():
            return super()._next()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread.

    With matrices this small, threads that wait for a busy core cost more than they compute.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_range(stage: Stage) -> bool:
    return stage.samples[-1] - stage.samples[0] == len(stage.samples) - 1


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingRequirement(
            "the optuna methods need the package 'optuna'",
            fix="pip install 'agenttts-hpc[optuna]'",
            at=("method",),
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
