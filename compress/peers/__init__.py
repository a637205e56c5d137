"""What other projects make of the same fine-tuned model, each at its own defaults, to be measured beside ours."""

from compress.peers.base import Peer
from compress.peers.making import make_peer
from compress.peers.registry import PEERS, peer_named

__all__ = ["PEERS", "Peer", "make_peer", "peer_named"]
