"""Labels for a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regard.preprocess.image import flat
from regard.preprocess.media import is_source
from regard.preprocess.video import check_counts, check_length, indices, read_frames
from regard.tasks.base import Piece
from regard.tasks.classification import label_scores
from regard.tasks.images import ImageLabelOptions, ImageTask, is_image
from regard.tasks.inputs import Inputs
from regard.tasks.media import read_media, reading
from regard.tasks.progress import Meter

SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".flv", ".gif")


@dataclass(frozen=True, kw_only=True)
class VideoLabelOptions(ImageLabelOptions):
    """`num_frames` (as many as the model was trained with, unless said) are taken evenly over the whole video, or
    `frame_sampling_rate` apart from its beginning. With `repeat` a video with fewer of them shows some twice."""

    num_frames: int | None = None
    frame_sampling_rate: int | None = None
    repeat: bool = False

    def check(self) -> None:
        super().check()
        check_counts(1 if self.num_frames is None else self.num_frames, self.frame_sampling_rate)


class VideoClassification(ImageTask[VideoLabelOptions]):
    """[{"score", "label"}] for a video, best first.

    A video is a path, bytes, a `data:` URL, an open file, an array or tensor of frames (T, H, W, C) or (T, C, H, W), or
    a list of images in memory. The path object of a folder stands for the videos in it.
    """

    options = VideoLabelOptions

    def setup(self) -> None:
        front: Any = next(self.model.towers()).front.config
        size: tuple[int, ...] = getattr(front, "size", ())
        if len(size) != 3:
            name = self.model.name or "this model"
            raise ValueError(f"{self.info.name} needs a model of video, such as VideoMAE; {name} is none")
        self.frames, self.patch = size[0], front.patch

    def opened(self, inputs: Any) -> Inputs:
        if isinstance(inputs, (list, tuple)) and inputs and is_image(inputs[0]):
            return Inputs([inputs], "one", 1)
        return read_media(inputs, lambda value: hasattr(value, "ndim") and value.ndim <= 4, SUFFIXES)

    def sampled(self, item: Any, options: VideoLabelOptions) -> list[Any]:
        """The frames that are looked at. ValueError says what is wrong with a video."""
        count, rate = options.num_frames or self.frames, options.frame_sampling_rate
        if is_source(item):
            with reading(item):
                return list(read_frames(item, count, frame_sampling_rate=rate, repeat=options.repeat, **options.access))
        if not isinstance(item, (list, tuple)) and getattr(item, "ndim", 0) != 4:
            shape = f" of shape {tuple(item.shape)}" if hasattr(item, "shape") else ""
            raise ValueError(
                f"a {type(item).__name__}{shape} is no video; allowed: a path, bytes, open file, data: URL, an array "
                "(frames, height, width, channels), or a list of images"
            )
        frames = flat(item)
        check_length(len(frames), count, "the video", repeat=options.repeat)
        return [frames[index] for index in indices(len(frames), count, rate)]

    def pieces(self, item: Any, options: VideoLabelOptions) -> list[Piece]:
        pixels = self.image_processor([self.sampled(item, options)], return_tensors="pt")["pixel_values"]
        times, _, height, width = pixels.shape[1:]
        each = [max(1, n // p) for n, p in zip((times, height, width), self.patch, strict=True)]
        return [Piece(values={"pixel_values": pixels}, size=each[0] * each[1] * each[2])]

    def run(self, pieces: Sequence[Piece], options: VideoLabelOptions, meter: Meter) -> list[Tensor]:
        logits = self.model(**self.inputs(pieces))["logits"].float().cpu()
        # A model that looks at each frame alone gives logits for each; they count alike.
        return list(logits.unflatten(0, (len(pieces), -1)).mean(1))

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: VideoLabelOptions
    ) -> list[dict[str, Any]]:
        scores = label_scores(outputs[0], options.function_to_apply, self.model.raw.get("problem_type")).tolist()
        pairs = sorted(zip(scores, self.labels(len(scores)), strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in pairs][: options.top_k]
