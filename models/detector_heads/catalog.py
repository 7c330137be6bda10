"""All detectors by name."""

from collections.abc import Mapping
from types import MappingProxyType

from models.detector_heads.build import CLASSES, Detector, Part
from models.detector_heads.dense import nanodet, yolov5, yolov8, yolox
from models.detector_heads.queries import detr, rt_detr
from models.detector_heads.selection import retinanet, ssd, yolo26, yolov10

__all__ = ["DETECTORS"]

DETECTORS: Mapping[str, Detector] = MappingProxyType(
    {
        "detector YOLOv5": Detector(yolov5, Part("output0", 2, 0, 4), Part("output0", 2, 4)),
        "detector YOLOv8": Detector(yolov8, Part("output0", 1, 0, 4), Part("output0", 1, 4)),
        "detector YOLOv10": Detector(yolov10, Part("select.split"), Part("select.split_1"), selects=True),
        "detector YOLO26": Detector(yolo26, Part("select.split"), Part("select.split_1"), selects=True),
        "detector NanoDet": Detector(nanodet, Part("output", 2, CLASSES), Part("output", 2, 0, CLASSES)),
        "detector YOLOX": Detector(yolox, Part("output", 2, 0, 4), Part("output", 2, 4)),
        "detector SSD": Detector(ssd, Part("decode.boxes"), Part("scores_by_class"), selects=True),
        "detector RetinaNet": Detector(retinanet, Part("head.box.0.rows"), Part("level.0.sigmoid"), selects=True),
        "detector DETR": Detector(detr, Part("pred_boxes"), Part("logits")),
        "detector RT-DETR": Detector(rt_detr, Part("enc_boxes"), Part("enc_score_head"), selects=True),
    }
)
