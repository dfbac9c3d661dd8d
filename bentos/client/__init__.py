"""A typed client of the service."""

from bentos.client.ecg_client import (
    ClientError,
    EcgClient,
    Prediction,
    ServiceProblemError,
    UnexpectedAnswerError,
    UnreachableError,
)

__all__ = [
    "ClientError",
    "EcgClient",
    "Prediction",
    "ServiceProblemError",
    "UnexpectedAnswerError",
    "UnreachableError",
]
