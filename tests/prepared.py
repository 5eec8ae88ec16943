"""Writes a small prepared data set; TFDS itself needs TensorFlow to prepare one."""

import io
import json
import pathlib

import numpy as np
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2


def write(root: pathlib.Path, name: str, class_names, splits) -> None:
    """`root/name/1.0.0`, with splits name -> (images uint8 `[n, h, w, 3]`, labels)."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    described = []
    for split, (images, labels) in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for image, label in zip(images, labels, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(buffer.getvalue())
            feature["label"].int64_list.value.append(int(label))
            writer.write(example.SerializeToString())
        writer.close()
        described.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(path.stat().st_size),
                "shardLengths": [str(len(labels))],
            }
        )
    shape = [str(n) for n in np.shape(images)[1:]]
    package = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "image": {
                "dtype": "uint8",
                "encodingFormat": "png",
                "shape": {"dimensions": shape},
            },
            "pythonClassName": f"{package}.image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": str(len(class_names))},
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
        },
    }
    info = {
        "fileFormat": "array_record",
        "moduleName": "prepared",
        "name": name,
        "splits": described,
        "supervisedKeys": {
            "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}
        },
        "version": "1.0.0",
    }
    feature_spec = {
        "featuresDict": {"features": features},
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(feature_spec))
    (folder / "label.labels.txt").write_text("\n".join(class_names) + "\n")
