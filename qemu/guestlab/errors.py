"""The ways in which a run can end other than well."""


class ScenarioFailed(Exception):
    """What the guest did or the host found is not what the scenario expects."""


class ScenarioSkipped(Exception):
    """The scenario makes no sense in this run; the text says why."""


class Unavailable(Exception):
    """Something that has to be fetched cannot be had here: status 77."""


class SetupFailed(Exception):
    """Something on this machine does not work that should: status 1."""
