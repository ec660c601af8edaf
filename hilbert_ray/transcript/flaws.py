"""Counts of flaws over many documents, as lines to read: one for each kind."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hilbert_ray.transcript.cue import Flaw

_EXAMPLES = 3


@dataclass(slots=True)
class FlawCounts:
    """How often each kind of flaw occurs, in how many documents, and the first of them."""

    flaws: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, doc_id: str, flaws: Sequence[Flaw]) -> None:
        """Count all flaws of a document."""
        for flaw in flaws:
            self.flaws[flaw.kind] += flaw.count
        for kind in {flaw.kind: None for flaw in flaws}:
            self.documents[kind] += 1
            if len(examples := self.examples.setdefault(kind, [])) < _EXAMPLES:
                examples.append(doc_id)

    def merge(self, other: "FlawCounts") -> None:
        """Add the counts of other documents."""
        self.flaws.update(other.flaws)
        self.documents.update(other.documents)
        for kind, doc_ids in other.examples.items():
            self.examples[kind] = (self.examples.get(kind, []) + doc_ids)[:_EXAMPLES]

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind, the one of most documents first."""
        for kind, documents in self.documents.most_common():
            *most, last = map(repr, self.examples[kind])
            names = f"{', '.join(most)} and {last}" if most else last
            such_as = f"{documents} documents, such as {names}" if documents > len(most) + 1 else names
            times = f"{self.flaws[kind]} " if self.flaws[kind] else ""
            yield f"{times}{kind}: in {such_as}"
