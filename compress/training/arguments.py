"""What transformers.Trainer is told of a training."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from compress.config.schemas import Training

__all__ = ["training_arguments"]

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def training_arguments(config: Training, directory: Path, updates: int, seed: int, device: str) -> TrainingArguments:
    """Return the arguments for a training of so many updates that evaluates, saves and logs by itself nothing."""
    cpu = device == "cpu"
    if not cpu:
        index = int(device.partition(":")[2] or 0)
        os.environ["ACCELERATE_TORCH_DEVICE"] = f"cuda:{index}"
    arguments = TrainingArguments(
        output_dir=str(directory),
        use_cpu=cpu,
        seed=seed,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=_SCHEDULES[config.schedule],
        warmup_steps=math.ceil(config.warmup_ratio * updates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    if not cpu:
        # Trainer takes cuda:0 and, where there are several GPUs, wraps the model in DataParallel.
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
        arguments.__dict__["_setup_devices"] = chosen
        arguments.__dict__["_n_gpu"] = 1
    return arguments
