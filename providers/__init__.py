"""Image-generation providers: one interface, one taxonomy of failures, one file a provider."""

from providers.base import (
    Capabilities,
    ChecksCredential,
    CredentialCheck,
    Generated,
    InputImage,
    Pending,
    Picture,
    PollPlan,
    Provider,
    Request,
    Submitted,
)
from providers.errors import Charged, ErrorKind, ProviderError, Retry, Scope
from providers.registry import create_provider, provider_names

__all__ = [
    "Capabilities",
    "Charged",
    "ChecksCredential",
    "CredentialCheck",
    "ErrorKind",
    "Generated",
    "InputImage",
    "Pending",
    "Picture",
    "PollPlan",
    "Provider",
    "ProviderError",
    "Request",
    "Retry",
    "Scope",
    "Submitted",
    "create_provider",
    "provider_names",
]
