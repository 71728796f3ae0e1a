"""What the exchange says when it will not do something, in its own codes."""

from marginguard.domain.errors import Rejected, Unauthorized


def bad_request(message: str) -> Rejected:
    """Return the refusal of a request that breaks a rule."""
    return Rejected(message, status=400, code="BAD_REQUEST")


def not_found(message: str) -> Rejected:
    """Return the refusal of a request for something that is not there."""
    return Rejected(message, status=404, code="NOT_FOUND")


def unauthorized(message: str) -> Unauthorized:
    """Return the refusal of a key, a passphrase, a timestamp or a signature."""
    return Unauthorized(message, status=401, code="UNAUTHORIZED")


def forbidden(permission: str) -> Unauthorized:
    """Return the refusal of a key that lacks `permission`."""
    return Unauthorized(f"The API key lacks {permission}", status=403, code="FORBIDDEN")


def too_many_requests(message: str) -> Rejected:
    """Return the refusal of a caller that is over a limit."""
    return Rejected(message, status=429, code="TOO_MANY_REQUESTS")
