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
