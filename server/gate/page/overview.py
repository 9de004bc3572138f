"""What the operator's page is told: all that this key may see, as JSON, at one moment."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tacit.crypto.errors import ParameterError
from tacit.server.gate import approvals, desk
from tacit.server.gate.approvals import Request
from tacit.server.gate.base import Grant, State
from tacit.server.gate.card import Card
from tacit.server.gate.drift import Drift
from tacit.server.gate.journal import Journal
from tacit.server.gate.known import Standing
from tacit.server.gate.lately import Lately
from tacit.server.gate.networks import RuleFile
from tacit.server.gate.reveal import Detail
from tacit.server.gate.roles import MAY, Act, may
from tacit.server.gate.store import Store
from tacit.server.gate.totp import Codes
from tacit.server.gate.watch import KeyWatch

MOST_KEYS = 500  # on a page: those that need a look come first
_RANKS = {State.DEGRADED: 0, State.SUSPENDED: 1, State.OK: 2}
_ENDED = 3


@dataclass(frozen=True, slots=True)
class House:
    """What the page is about. `watch` and `drift` are None at a gate that does not watch; `codes`
    raises ParameterError where none can be checked, for want of their key."""

    card: Card
    reveal: Detail
    store: Store
    journal: Journal
    lately: Lately
    codes: Callable[[], Codes]
    rules: RuleFile | None = None
    watch: KeyWatch | None = None
    drift: Drift | None = None


def overview(house: House, by: Grant, at: float) -> dict[str, Any]:
    """Parts that `by` may not see are None."""
    sees = may(by.role, Act.SEE_STATES)
    waiting = approvals.waiting(house.store, by, at)
    return {
        "at": at,
        "me": _me(house, by),
        "gate": _gate(house),
        "keys": _keys(house, by, at) if sees else None,
        "organisations": [asdict(each) for each in desk.shares(house.store, by, at)]
        if sees
        else None,
        "requests": [_request(each, by) for each in waiting],
        "decisions": _decisions(house) if sees else None,
        "drift": _drift(house) if sees else None,
    }


def _me(house: House, by: Grant) -> dict[str, Any]:
    return {
        "key": by.key, "organisation": by.organisation, "role": by.role, "expires": by.expires,
        "may": sorted(MAY[by.role]), "has_codes": _has_codes(house, by),
    }  # fmt: skip


def _has_codes(house: House, by: Grant) -> bool:
    try:
        return house.codes().has(by)
    except ParameterError:
        return False


def _gate(house: House) -> dict[str, Any]:
    head = house.journal.head
    return {
        "model": house.card.name, "digest": house.card.digest, "reveal": house.reveal,
        "fault": house.rules.fault if house.rules else None,
        "log": {"name": head.log.hex(), "size": head.head.size, "root": head.head.root.hex()},
    }  # fmt: skip


def _keys(house: House, by: Grant, at: float) -> dict[str, Any]:
    standings = [(each, _state(each, at)) for each in desk.standings(house.store, by, at)]
    shown = sorted(standings, key=_urgency)[:MOST_KEYS]
    return {"all": len(standings), "shown": [_key(house, *each) for each in shown]}


def _urgency(standing: tuple[Standing, str]) -> tuple[int, float, float]:
    """Those that are degraded or suspended come first, then by risk; what has ended comes last."""
    each, state = standing
    rank = _RANKS.get(each.grant.state, _ENDED) if state == each.grant.state else _ENDED
    return rank, -each.grant.risk, -each.grant.issued


def _state(standing: Standing, at: float) -> str:
    if standing.is_revoked:
        return "revoked"
    return "expired" if at >= standing.grant.expires else standing.grant.state


def _key(house: House, standing: Standing, state: str) -> dict[str, Any]:
    grant = standing.grant
    return {
        "key": grant.key, "organisation": grant.organisation, "role": grant.role, "state": state,
        "risk": round(grant.risk, 4), "trust": grant.trust, "spent": standing.spent,
        "allowed": standing.allowed, "left": standing.left, "issued": grant.issued,
        "expires": grant.expires, "details": sorted(grant.details), "networks": grant.networks,
        "seen": _seen(house.watch, grant.key),
    }  # fmt: skip


def _seen(watch: KeyWatch | None, key: str) -> dict[str, Any] | None:
    """What the watch makes of the last that this key asked; None where it has seen too little.
    Each figure with how far it is from typical, 0, towards the limit of honest users, 1."""
    if watch is None or not (suspicion := watch.suspicion_of(key)).figures:
        return None
    excess = watch.baseline.excess(suspicion.figures)
    figures = [
        {"name": name, "value": _finite(suspicion.figures[name]), "excess": _finite(excess[name])}
        for name in excess
    ]
    return {"risk": suspicion.risk, "is_flagged": suspicion.is_flagged, "figures": figures}


def _request(request: Request, by: Grant) -> dict[str, Any]:
    return asdict(request) | {"is_mine": request.asked_by == by.key}


def _decisions(house: House) -> dict[str, Any]:
    told = house.lately.told()
    return {
        "since": told.since, "denied": told.denied, "denials": told.denials,
        "lately": told.decisions,
    }  # fmt: skip


def _drift(house: House) -> dict[str, Any]:
    drift = house.drift
    return {
        "is_watched": drift is not None, "share": None if drift is None else drift.share,
        "told": house.lately.told().drifts,
    }  # fmt: skip


def _finite(figure: float) -> float | None:
    """JSON has no word for the others."""
    return round(figure, 4) if math.isfinite(figure) else None
