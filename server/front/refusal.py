"""Why somebody is turned away: the words that the front's log has, and what he is told."""

PLAIN = "plain text on the TLS port"
UNTRUSTED = "did not accept the server's certificate"
NOTHING_SHARED = "no TLS version or cipher in common"
HANDSHAKE = "TLS handshake failed"
SLOW = "too slow"
MANY = "too many connections"
MALFORMED = "no request as devices make them"
PATH = "not a path for devices"
LARGE = "too large"
UNSIGNED = "no node key and signature"
BAD_SIGNATURE = "bad signature"
CLOCK = "signed at another time than now"
EARLY = "signed before the front can know"
REPLAYED = "signature used before"
UNKNOWN = "unknown node key"
REVOKED = "revoked node key"
BUSY = "too many requests of one node"
FLEET = "refused by the Fleet API"


class Refusal(Exception):
    """A request that is not answered as it asks. `words` are for who has proved to hold a key: all
    others get an answer without a body."""

    def __init__(self, reason: str, status: int, *, who: str = "", words: str = "") -> None:
        super().__init__(reason)
        self.reason, self.status, self.who, self.words = reason, status, who, words
