"""Every error a user may see, as one sentence that says what to do.

LoomError
├── BadRequest            a field has a value it cannot have
├── ModelUnavailable      the model cannot run here
├── ModelFileBroken       a file of a model is missing or torn
├── LoraRefused           a LoRA cannot be used as asked
│   ├── LoraDoesNotFit    made for another family
│   └── LoraFileBroken    unreadable, half a pair, not finite
├── Cancelled             somebody pressed Cancel
├── TooBusy               too many pictures are under way already
├── DiskFull              the server has no room for a file
├── OutOfMemory           the device has too little memory for this
├── NoGpu                 a shared GPU cannot be had for this, or not now
├── JournalRefused        the records on this machine cannot be used
│   └── NotRecorded       a picture was drawn, but no record of it kept
└── Internal              a bug: the log has its traceback under the id shown
The catalogue has a tree of its own (lora_catalog.errors); both kinds carry sentences for users.
"""

from __future__ import annotations


class LoomError(Exception):
    """The base of all errors whose text is meant for users."""


class BadRequest(LoomError):
    """`field` is the request's own name for what is wrong."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field

    def __reduce__(self) -> tuple[type[BadRequest], tuple[str, str]]:
        return type(self), (self.field, str(self))


class ModelUnavailable(LoomError):
    """The chosen model cannot run on this machine; the sentence says why."""


class ModelFileBroken(LoomError):
    """A model's file is missing or not what was shipped; the sentence names it and how to restore it."""


class LoraRefused(LoomError):
    """A LoRA cannot be used as asked."""


class LoraDoesNotFit(LoraRefused):
    """A LoRA was made for another family, or matches no layer."""


class LoraFileBroken(LoraRefused):
    """A LoRA's file cannot be read, lacks half of a pair, or holds values that are not finite."""


class Cancelled(LoomError):
    """The run was cancelled."""


class TooBusy(LoomError):
    """Too many jobs of this visitor, of their network or of all are under way; nothing of it was begun."""


class DiskFull(LoomError):
    """A file could not be written here."""


class OutOfMemory(LoomError):
    """The device ran out of memory; weights are as they were."""


class NoGpu(LoomError):
    """A GPU that is lent by the run cannot be had: too little quota is left, or none is free."""


class JournalRefused(LoomError):
    """`reason` is a clause that says why the journal cannot be used."""

    _SENTENCE = "The journal of this studio cannot be used: {}."

    def __init__(self, reason: str) -> None:
        super().__init__(self._SENTENCE.format(reason))
        self.reason = reason

    def __reduce__(self) -> tuple[type[JournalRefused], tuple[str]]:
        return type(self), (self.reason,)


class NotRecorded(JournalRefused):
    """A picture was drawn, but no record of it is kept."""

    _SENTENCE = "Not recorded: {}."


class Internal(LoomError):
    """A bug of ours; the log holds its traceback under the id in the sentence."""
