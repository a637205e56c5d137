"""Event files for TensorBoard, written with its own writer: neither torch nor TensorFlow is imported."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tracking import facts

if TYPE_CHECKING:
    from compress.config.schemas import TensorBoard

__all__ = ["write"]


def write(record: Mapping[str, Any], run_dir: Path, config: TensorBoard) -> Path:
    """Write one event file of a run and return its folder.

    Metrics are scalars at step 0, training curves at their epochs; plots are images, the report is text; parameters
    and the artifact's metrics show in the tab HPARAMS, where the runs of a sweep are compared.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = run_dir / "tensorboard" if config.folder is None else Path(config.folder) / facts.name_of(run_dir)
    for earlier in folder.glob("events.out.tfevents.*"):  # of an earlier attempt in this directory
        earlier.unlink()
    figures = facts.metrics(record)
    writer = EventFileWriter(str(folder))
    try:
        for summary in _hyperparameters(facts.params(record, run_dir), figures):
            writer.add_event(Event(wall_time=time.time(), summary=summary))
        points = [*((name, 0, value) for name, value in figures.items()), *facts.curves(record)]
        for name, step, value in points:
            scalar = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            writer.add_event(Event(wall_time=time.time(), step=step, summary=scalar))
        for path in facts.files(run_dir):
            shown = _image(path) if path.suffix == ".png" else _text(path) if path.suffix == ".md" else None
            if shown is not None:
                writer.add_event(Event(wall_time=time.time(), summary=shown))
    finally:
        writer.close()
    return folder


def _hyperparameters(params: Mapping[str, Any], figures: Mapping[str, float]) -> list[Any]:
    """Return what the tab HPARAMS is made of: the columns, the values, and that the run ended."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb, hparams_pb

    values = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in params.items()}
    columns = [Metric(name) for name in figures if name.startswith("artifact/")]
    end = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time()))
    ended = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(end),
        tensor=metadata.NULL_TENSOR,
    )
    return [
        hparams_config_pb([HParam(key) for key in values], columns),
        hparams_pb(values),
        Summary(value=[ended]),
    ]


def _image(path: Path) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # the header of every PNG
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=f"plots/{path.stem}", image=image)])


def _text(path: Path) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    tensor = TensorProto(dtype=DT_STRING, string_val=[path.read_bytes()])
    metadata = create_summary_metadata(display_name=path.stem, description="")
    return Summary(value=[Summary.Value(tag=path.stem, metadata=metadata, tensor=tensor)])
