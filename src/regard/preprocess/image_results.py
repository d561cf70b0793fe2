"""A model's boxes and masks as those of the images: detections, and semantic, instance and panoptic segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

MASK2FORMER_SIZE = (384, 384)
"""Where Mask2Former's masks are compared, whatever the size of the images."""
AT_ONCE = 2**26
"""How many scores of pixels are scaled up together."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """What counts as a segment: score of its class above `threshold`; pixels above `mask_threshold`; at least
    `overlap` of them its own; labels in `fuse` joined."""

    threshold: float = 0.5
    mask_threshold: float = 0.5
    overlap: float = 0.8
    fuse: frozenset[int] = frozenset()


def detections(outputs: Any, threshold: float, target_sizes: Any) -> list[dict[str, Tensor]]:
    """Boxes of DETR and its like: logits (B, N, labels + 1), the last of them "nothing"; pred_boxes (B, N, 4) as
    centre, width and height in fractions."""
    logits, boxes = _field(outputs, "logits"), _field(outputs, "pred_boxes")
    sizes = _sizes(target_sizes, logits.shape[0])
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # (B, N)
    x, y, width, height = boxes.unbind(-1)
    corners = torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], dim=-1)
    if sizes is not None:
        scale = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=corners.dtype, device=corners.device)
        corners = corners * scale[:, None]
    found = []
    for score, label, box in zip(scores, labels, corners, strict=True):
        keep = score > threshold
        found.append({"scores": score[keep], "labels": label[keep], "boxes": box[keep]})
    return found


def semantic(outputs: Any, how: str, target_sizes: Any) -> list[Tensor]:
    """Maps (H, W) of class numbers."""
    if how == "logits":
        classes = _field(outputs, "logits")  # (B, labels, h, w)
    else:
        logits, masks = _queries(outputs, how)
        classes = torch.einsum("bqc,bqhw->bchw", logits.softmax(-1)[..., :-1], masks.sigmoid())
    sizes = _sizes(target_sizes, classes.shape[0])
    if sizes is None:
        return list(classes.argmax(1))
    return [_likeliest(item, size) for item, size in zip(classes, sizes, strict=True)]


def _likeliest(classes: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (labels, h, w) -> (H, W), the best label everywhere; a few labels at a time, as hundreds of them at the
    size of a photo take gigabytes."""
    step = max(1, AT_ONCE // (size[0] * size[1]))
    best, found = _scaled(classes[:step], size).max(0)
    for start in range(step, classes.shape[0], step):
        score, label = _scaled(classes[start : start + step], size).max(0)
        better = score > best
        best, found = torch.where(better, score, best), torch.where(better, label + start, found)
    return found


def instances(outputs: Any, how: str, settings: Segments, target_sizes: Any) -> list[dict[str, Any]]:
    """Segments of instances; pixels of several belong to the last in MaskFormer's kinds, to the likeliest in DETR's."""
    if how == "detr":
        return panoptic(outputs, how, settings, target_sizes)
    logits, masks = _queries(outputs, how)
    sizes = _sizes(target_sizes, logits.shape[0])
    return [
        _ranked(logits[i], masks[i], settings.threshold, sizes[i] if sizes else None) for i in range(logits.shape[0])
    ]


def _ranked(logits: Tensor, masks: Tensor, threshold: float, size: tuple[int, int] | None) -> dict[str, Any]:
    """As many (query, class) pairs as there are queries, by score: that of the class times the mean of the mask."""
    queries, classes = logits.shape[0], logits.shape[1] - 1
    best, where = logits.softmax(-1)[:, :-1].flatten().topk(queries, sorted=False)
    masks = masks[where // classes]
    inside = (masks > 0).float()
    means = (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    scores = best * means
    if size is not None:
        inside = interpolate(inside[None], size=size, mode="nearest")[0]
    segmentation = torch.zeros(inside.shape[1:]) - 1
    segments: list[dict[str, Any]] = []
    for mask, score, label in zip(inside, scores.tolist(), (where % classes).tolist(), strict=True):
        if score >= threshold and mask.any():
            segmentation[(mask == 1).cpu()] = len(segments)
            segments.append(_segment(len(segments), label, score))
    return {"segmentation": segmentation, "segments_info": segments}


def panoptic(outputs: Any, how: str, settings: Segments, target_sizes: Any) -> list[dict[str, Any]]:
    """Segments that share no pixel: each pixel goes to the query that is likeliest there."""
    logits, masks = _queries(outputs, how)
    sizes = _sizes(target_sizes, logits.shape[0])
    scores, labels = logits.softmax(-1).max(-1)
    keep = (labels != logits.shape[-1] - 1) & (scores > settings.threshold)
    found = []
    for i in range(logits.shape[0]):
        size = sizes[i] if sizes else None
        if not keep[i].any():
            found.append({"segmentation": torch.zeros(size or masks.shape[2:]) - 1, "segments_info": []})
        else:
            chosen = masks[i][keep[i]].sigmoid()
            found.append(_shared_out(chosen, scores[i][keep[i]], labels[i][keep[i]].tolist(), settings, size))
    return found


def _shared_out(
    masks: Tensor, scores: Tensor, labels: list[int], settings: Segments, size: tuple[int, int] | None
) -> dict[str, Any]:
    masks = (masks if size is None else _scaled(masks, size)) * scores[:, None, None]
    owner = masks.argmax(0)
    segmentation = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    segments: list[dict[str, Any]] = []
    fused: dict[int, int] = {}
    last = 0
    for query, (label, score) in enumerate(zip(labels, scores.tolist(), strict=True)):
        own = owner == query
        area, whole = int(own.sum()), int((masks[query] >= settings.mask_threshold).sum())
        if not area or not whole or not area / whole > settings.overlap:
            continue
        fuse = label in settings.fuse
        last = fused[label] if label in fused else last + 1
        if fuse:
            fused[label] = last
        segmentation[own] = last
        segments.append(_segment(last, label, score, fused=fuse))
    return {"segmentation": segmentation, "segments_info": segments}


def _segment(number: int, label: int, score: float, *, fused: bool = False) -> dict[str, Any]:
    return {"id": number, "label_id": label, "was_fused": fused, "score": round(score, 6)}


def run_lengths(segmentation: Tensor) -> list[list[int]]:
    """A map as runs, for each number in it (start, length, start, length, ...), starts counted from 1, row by row."""
    found = []
    for number in segmentation.unique():
        inside = np.concatenate([[0], (segmentation == number).cpu().numpy().ravel().astype(np.int8), [0]])
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        edges[1::2] -= edges[::2]
        found.append([int(edge) for edge in edges])
    return found


def _queries(outputs: Any, how: str) -> tuple[Tensor, Tensor]:
    """Class logits (B, Q, labels + 1) and masks (B, Q, h, w)."""
    if how == "detr":
        return _field(outputs, "logits"), _field(outputs, "pred_masks")
    logits, masks = _field(outputs, "class_queries_logits"), _field(outputs, "masks_queries_logits")
    if how == "mask2former":
        masks = interpolate(masks, size=MASK2FORMER_SIZE, mode="bilinear", align_corners=False)
    return logits, masks


def _scaled(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def _field(outputs: Any, name: str) -> Tensor:
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if not isinstance(value, Tensor):
        raise ValueError(f"the outputs have no {name}, which the model for this processor gives")
    return value


def _sizes(target_sizes: Any, count: int) -> list[tuple[int, int]] | None:
    """(height, width) of each image."""
    if target_sizes is None:
        return None
    rows: Sequence[Any] = target_sizes.tolist() if hasattr(target_sizes, "tolist") else target_sizes
    if len(rows) != count:
        raise ValueError(f"target_sizes has {len(rows)} entries for {count} images")
    sizes = []
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) != 2 or not all(int(edge) >= 1 for edge in row):
            raise ValueError(f"target_sizes has {row!r}; allowed: (height, width) in pixels of each image")
        sizes.append((int(row[0]), int(row[1])))
    return sizes
