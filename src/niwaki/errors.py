"""The one exception tree: every error that niwaki raises on purpose is a `NiwakiError`."""

from __future__ import annotations


class NiwakiError(Exception):
    """Something the user can mend.

    The message names the thing, what was expected and what was found; the remedy says what to do.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


class RecipeError(NiwakiError):
    """A recipe or command-line value that cannot be used."""


class FamilyError(NiwakiError):
    """A model family or tensor that no axis table describes."""


class CheckpointError(NiwakiError):
    """A model folder that is missing, damaged, or not what it claims to be."""


class DataError(NiwakiError):
    """Text or tokens that cannot be used."""


class BudgetError(NiwakiError):
    """A size that no shape of the model can reach."""


class RunError(NiwakiError):
    """A run directory that cannot be continued."""


class TrainingError(NiwakiError):
    """Training that went wrong, such as a loss that is not finite."""


class EvaluationError(NiwakiError):
    """An evaluation that cannot be carried out."""


class HubError(NiwakiError):
    """Something that must not be published, or that the Hub does not take."""


class VerifyError(NiwakiError):
    """An answer that cannot be graded because of how the grader was called."""
