"""Object detection datasets as others lay them out (COCO, YOLO, Pascal VOC), read into the rows of a manifest."""
