"""What the operators' page sends, and what it is told of it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tacit.server.gate.approvals import Deed
from tacit.server.gate.base import Role
from tacit.server.gate.reveal import Detail


class Form(BaseModel):
    """A request's body, in which nothing may be that is not said here."""

    model_config = ConfigDict(extra="forbid", strict=True)


_Name = Annotated[str, Field(max_length=100)]
_Text = Annotated[str, Field(max_length=500)]
_Role = Annotated[Role, WithJsonSchema({"type": "string", "enum": list(Role)})]
_Detail = Annotated[Detail, WithJsonSchema({"type": "string", "enum": list(Detail)})]
_Deed = Annotated[Deed, WithJsonSchema({"type": "string", "enum": list(Deed)})]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Issue(Form):
    """A new key."""

    organisation: _Name
    role: _Role = Role.CLIENT
    days: Annotated[_Finite, Field(gt=0, le=3660)] = 90.0
    details: Annotated[list[_Detail], Field(max_length=len(Detail))] = []
    networks: Annotated[list[_Name], Field(max_length=100)] = []


class Rotate(Form):
    """A new secret for a key; those of before go on for some `hours`."""

    key: _Name
    hours: Annotated[_Finite, Field(ge=0, le=720)] = 24.0


class Revoke(Form):
    """The end of a key."""

    key: _Name


class Suspend(Form):
    """No more answers to a key, and why."""

    key: _Name
    reason: _Text


class Restore(Form):
    """A key as good as new, and why; for some `days` the watch holds nothing against it."""

    key: _Name
    reason: _Text
    days: Annotated[_Finite, Field(ge=0, le=366)] = 0.0


class Ask(Form):
    """For what takes a second person; the `amount` of answers is that of a budget."""

    deed: _Deed
    subject: Annotated[str, Field(max_length=200)]
    amount: Annotated[int, Field(ge=0, le=10**12)] = 0


class Approve(Form):
    """What another person asked for, with a one-time code."""

    request: Annotated[int, Field(ge=0, lt=2**63)]
    code: Annotated[str, Field(max_length=16)]


class Handed(BaseModel):
    """A key; its secret is here, and nowhere else."""

    key: str
    secret: str


class Done(BaseModel):
    """What the act was about."""

    done: str
