"""Measure how well a conditional model follows its labels, in a minute and without downloads.

    python benchmarks/label_agreement.py runs/avatars-32-labels

A linear classifier (ridge regression on pixels) learns the labels from the training images. For each label it is
evaluated on held-out real images, on generated images, and on generated images with shuffled labels, which is the score
of a model that ignores its labels. Generated images may be easier or harder to classify than real ones, so only compare
models on the same data set.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from fagan_hf import Generator
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.latent_space.linear_classifier import LinearClassifier
from fagan_hf.sampling.images import generate_images, labels_from_seeds, latents_from_seeds
from fagan_hf.utils.label_names import label_groups

FIRST_SEED = 1_000_000  # far from the seeds that people look at


def agreement(scores: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Return the balanced accuracy of each binary attribute and column: the mean over its values of their recall.

    Args:
        scores: From `LinearClassifier.scores`.
        labels: The requested labels, 0 or 1.
        names: Names of the labels.
    """
    result = {}
    for column, places in label_groups(names).items():
        if len(places) == 1:
            read, wanted = scores[:, places[0]] > 0.5, labels[:, places[0]] > 0.5
        else:
            read, wanted = scores[:, places].argmax(1), labels[:, places].argmax(1)
        rates = [(read[wanted == value] == value).double().mean().item() for value in wanted.unique()]
        result[column] = float(np.mean(rates))
    return result


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run folders or Hub ids of conditional models")
    parser.add_argument("--dataset", default="avatars", help="data set with the splits train and test")
    parser.add_argument("--num_images", type=int, default=2048)
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.num_images)
    for name in options.models:
        generator = Generator.from_pretrained(name)
        names, size = generator.config.label_names, generator.config.image_size
        labels = labels_from_seeds(generator, seeds)
        if labels is None:
            raise SystemExit(f"{name} was trained without labels")
        columns = tuple(label_groups(names))
        train, test = (
            prepare_images(ImageSource(options.dataset, resolution=size, split=split, label_columns=columns))
            for split in ("train", "test")
        )
        classifier = LinearClassifier(np.asarray(train.array), train.labels)
        latents = latents_from_seeds(seeds, generator.config.latent_dim)
        scores = classifier.scores(generate_images(generator, latents, labels).transpose(0, 3, 1, 2))
        real = agreement(classifier.scores(np.asarray(test.array)), torch.from_numpy(test.labels), names)
        fake = agreement(scores, labels, names)
        ignored = agreement(
            scores, labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))], names
        )
        print(f"{name}: balanced accuracy [%] of a linear classifier, {len(latents)} generated images")
        print(f"{'label':<16}{'real':>8}{'generated':>12}{'shuffled':>12}")
        for column in columns:
            print(f"{column:<16}{100 * real[column]:8.1f}{100 * fake[column]:12.1f}{100 * ignored[column]:12.1f}")


if __name__ == "__main__":
    main()
