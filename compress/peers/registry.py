"""The peers there are, in the order of the table; the module of one is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from compress.peers.base import Peer

__all__ = ["PEERS", "peer_named"]

PEERS = {
    "torch_compile": "compress.peers.torch_ways:TorchCompile",
    "torchao_int8": "compress.peers.torch_ways:TorchAOInt8",
    "onnxruntime": "compress.peers.onnxruntime_ways:Exported",
    "onnxruntime_dynamic_int8": "compress.peers.onnxruntime_ways:DynamicInt8",
    "onnxruntime_static_int8": "compress.peers.onnxruntime_ways:StaticInt8",
    "openvino": "compress.peers.openvino_ways:OpenVINO",
    "openvino_nncf_int8": "compress.peers.openvino_ways:NNCFInt8",
    "tfidf": "compress.peers.tfidf:TfIdf",
    "static_embeddings": "compress.peers.static_embeddings:StaticEmbeddings",
}
"""Module and class by name."""


def peer_named(name: str) -> Peer:
    """Return a peer by its name."""
    module, _, kind = PEERS[name].partition(":")
    peer: Peer = getattr(import_module(module), kind)()
    return peer
