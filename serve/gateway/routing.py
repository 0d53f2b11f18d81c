"""Routing: which variant answers which user, according to the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.types import RunError
from serve.config import ServeConfig
from serve.gateway.auth import Caller
from serve.gateway.engine import app_name
from serve.gateway.errors import ApiError
from serve.statistics.assignment import Split, uniform
from serve.store.records import Key, Role, Variant
from serve.store.release_records import Release
from serve.store.store import Store
from serve.store.variants import Variants
from serve.text import excerpt


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The variant that answers a request, and the experiment that it is part of."""

    variant: str
    experiment: str | None = None
    """Experiment that the request is part of; None if it is part of none."""
    split: Split | None = None
    """The draw that put its user into an arm; None if chance did not."""
    shadow: str | None = None
    """The variant that also answers, unseen; None without a shadow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The Serve application, and the adapter in it, that serve a variant."""

    variant: str
    version: str
    app: str
    """Serve application of its engines."""
    adapter: str | None
    """Folder of an adapter, which the engines of its model load; None of a whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTable:
    """A snapshot of the store: variants, keys and the running experiment."""

    name: str
    """The model that users ask for."""
    production: str
    deployments: Mapping[str, Deployment]
    """Deployment of every variant that is served."""
    keys: Mapping[str, Key]
    """API keys by their hash."""
    user_keys_required: bool
    """Users need a key on loopback too: one has been made for some user, though it may be revoked."""
    split: Split | None = None
    """The experiment that runs."""
    shadow_fraction: float = 0.0
    """Share of its requests that the candidate answers too."""
    last_deletion: float | None = None
    """Unix seconds of the newest deletion of a user, who may come back as a new one."""

    def models(self, caller: Caller) -> list[str]:
        """Names that a caller may ask for. A candidate in its shadow step is an operator's alone."""
        shadowed = self.split.candidate if self.split and not self.split.weights[self.split.candidate] else None
        return [self.name, *(name for name in self.deployments if name != shadowed or caller.role is Role.operator)]

    def require(self, model: str, caller: Caller) -> None:
        """Raise ApiError 404 if the caller may not ask for this model."""
        known = self.models(caller)
        if model not in known:
            raise ApiError(404, f"model: there is no {excerpt(model)!r}; known are {', '.join(known)}", param="model")

    def route(self, model: str, user: str | None, request_id: str, caller: Caller) -> Route:
        """Return the route of a request. Raises ApiError 404 for an unknown model.

        A variant asked by its own name is part of no experiment. A request that names no user gets the model in
        production, as nobody could say which arm it belongs to, and is copied in the shadow step as any other.
        """
        self.require(model, caller)
        if model != self.name:
            return Route(variant=model)
        if self.split is None:
            return Route(variant=self.production)
        shadowed = uniform(self.split.salt, request_id) < self.shadow_fraction
        shadow = self.split.candidate if shadowed else None
        if user is None:
            return Route(variant=self.production, experiment=self.split.experiment if shadow else None, shadow=shadow)
        assignment = self.split.assign(user)
        if assignment.listed:
            return Route(variant=assignment.variant)
        return Route(variant=assignment.variant, experiment=self.split.experiment, split=self.split, shadow=shadow)


def served_variants(
    variants: Variants, config: ServeConfig, production: str | None, latest: Release | None
) -> dict[str, Variant]:
    """The variants that are served, and those that hold adapters among them: those configured, production, and those of
    the latest release, so that what may be returned to stays warm until the next one needs its room."""
    arms = (latest.candidate, latest.predecessor) if latest and latest.warm else ()
    names = [*config.models, production, *arms]
    known = {variant.name: variant for variant in variants.all()}
    wanted = {name for name in names if name is not None}
    wanted |= {base for name in wanted if (base := known[name].base) is not None}
    return {name: known[name] for name in known if name in wanted}


def deployments_of(variants: Mapping[str, Variant], config: ServeConfig) -> dict[str, Deployment]:
    return {name: deployment_of(variant, variants, config) for name, variant in variants.items()}


def deployment_of(variant: Variant, variants: Mapping[str, Variant], config: ServeConfig) -> Deployment:
    host = variants[variant.base] if variant.base else variant
    return Deployment(
        variant=variant.name,
        version=variant.version,
        app=app_name(host, config.engine, config.replicas),
        adapter=variant.folder if variant.base else None,
    )


def read(store: Store, config: ServeConfig) -> RoutingTable:
    production = store.releases.production()
    if production is None:
        raise RunError("the store knows of no model in production; start the service with production=NAME")
    release = store.releases.latest()
    experiment = release.experiment if release else None
    split, shadow_fraction = None, 0.0
    if release and experiment:
        split = Split(
            experiment=experiment.name,
            salt=experiment.salt,
            weights=experiment.weights,
            candidate=experiment.candidate,
            predecessor=experiment.predecessor,
            allow=frozenset() if experiment.shadow else frozenset(config.release.allow),
            deny=frozenset(config.release.deny),
        )
        shadow_fraction = config.release.shadow_fraction if experiment.shadow else 0.0
    return RoutingTable(
        name=config.name,
        production=production,
        deployments=deployments_of(served_variants(store.variants, config, production, release), config),
        keys={key.hash: key for key in store.keys.all()},
        user_keys_required=store.keys.required_of_users(),
        split=split,
        shadow_fraction=shadow_fraction,
        last_deletion=store.people.last_deletion(),
    )
