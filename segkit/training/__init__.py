"""Training the networks of `nuclei-net` and `tissue-net`: pairs of images and labels in, an ONNX file with its card out.

    images = segkit.training.read_folder("pairs")              # or read_results(run): what people corrected
    trained = segkit.training.train_network(images, "ours.onnx", data="plates 1 to 7", licence="ours")
    segkit.segment(image, "nuclei-net", model="ours.onnx")

Needs `pip install "segkit[train]"` (PyTorch, on the CPU); what has been trained runs without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pairs": ["LabelledImage", "divided", "part_of", "read_folder", "read_results"],
        "fitting": ["Fit", "FitSettings", "fit", "labels_by"],
        "purposes": ["Purpose", "purpose_of"],
        "saving": ["save_model"],
        "sessions": ["Trained", "judge", "train_network"],
        "starting": ["read_network"],
    },
)
