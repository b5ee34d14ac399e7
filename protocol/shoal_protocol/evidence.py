"""Evidence: two sealed envelopes of one sender that cannot both be honest.

Signatures make lies provable: nobody but the sender can have sealed either of the two, so whoever holds the pair can
show it to anybody, and needs no trust himself. An honest member never says

- two different things under one number (incarnation, sequence): it counts up before it seals;
- two values in one vote: it stores its vote before it sends it;
- two plans in one round's proposal, for the same reason.

The same vote or proposal sealed again under a new number is repetition, not contradiction. A member that lost its
state and began again at an old incarnation contradicts itself without wanting to; the proof is the same, since the
others cannot tell, and so a member that finds its own signature in its future goes on with a higher incarnation.

Opening looks one level deep: an accusation of somebody who sealed two different accusations is judged by their numbers
like anything else, and what those accuse is not looked at. At most four signatures are checked.
"""

from shoal_protocol.envelope import Envelope, open_envelope
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import ClusterId, NodeId
from shoal_protocol.messages import EvidenceFound, Proposed, VoteCast
from shoal_protocol.roster import TrustedRoster


def culprit_of(evidence: EvidenceFound, roster: TrustedRoster, cluster: ClusterId) -> NodeId:
    """Who contradicts itself in ``evidence``; MalformedMessage if nobody does.

    Any other RemoteProtocolError means that one of the two is no envelope of a member.
    """
    first = open_envelope(evidence.first, roster, cluster)
    second = open_envelope(evidence.second, roster, cluster)
    if first.sender != second.sender or not _contradict(first, second):
        raise MalformedMessage("two envelopes that do not contradict each other")
    return first.sender


def _contradict(first: Envelope, second: Envelope) -> bool:
    if (first.incarnation, first.sequence) == (second.incarnation, second.sequence):
        return first != second
    match first.message, second.message:
        case VoteCast() as one, VoteCast() as other:
            return _ballot(one) == _ballot(other) and one.value != other.value
        case Proposed() as one, Proposed() as other:
            same_round = (one.deployment, one.epoch, one.round) == (other.deployment, other.epoch, other.round)
            return same_round and one.plan != other.plan
        case _:
            return False


def _ballot(vote: VoteCast) -> tuple[object, ...]:
    return vote.deployment, vote.epoch, vote.round, vote.vote
