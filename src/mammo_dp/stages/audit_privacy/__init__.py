"""`stage=audit_privacy`: a finished classifier -> attacks and lower bounds beside its claim."""

from typing import Any

from mammo_dp.engine.stage import Input, Stage
from mammo_dp.privacy.events import Event
from mammo_dp.stages.train_classifier import training_inputs, training_label


class AuditPrivacy(Stage):
    name, version = "audit_privacy", 4
    summary = "a finished classifier -> membership attacks, lower bounds beside its claim"
    uses = ("audit", "dataset.population", "privacy.unit", "privacy.delta")
    optional = True

    def label(self, config):
        fraction = config.audit.noise_fraction
        return training_label(config) + (f"-noise{fraction:g}" if fraction != 1 else "")

    def inputs(self, config):
        return {"classifier": Input("train_classifier"), **training_inputs(config)}

    def events(self, config, cache):
        """Attacks on real records look at them without any limit. Canaries do not: what they show is the noise."""
        if config.no_retrains or not config.audit.models:
            return
        common: dict[str, Any] = {
            "stage": self.name, "cohort": "training", "study": config.dataset.population,
            "why": "they are exact functions of these images",
        }  # fmt: skip
        yield Event("rates and bounds of membership attacks", effect="published", **common)
        yield Event(
            "the attack on each training patient (attack.csv, metrics.json)", effect="internal", **common
        )
